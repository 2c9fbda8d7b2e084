// SPDX-License-Identifier: Apache-2.0
// How the group over NCCL ends: calls that differ, ranks that do not come or die, aborts; and that
// the stand-in for NCCL sees misuse.
#include <nccl.h>

#include <atomic>
#include <thread>

#include "host_threads.h"
#include "nccl_testing.h"
#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/cuda/nccl.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

class NcclFailures : public NcclGroups {};

// Expects that every rank's next barrier ends in an error of `kind` with the text, and so does
// every call after it.
void expect_broken(ProcessGroup& group, ErrorKind kind, const testing::Matcher<std::string>& text) {
  std::string first;
  for (int i = 0; i < 2; ++i) {
    try {
      group.barrier().wait();
      ADD_FAILURE() << "expected an error";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), kind) << e.what();
      EXPECT_THAT(e.what(), text);
      EXPECT_TRUE(i == 0 || first == e.what()) << e.what();
      first = e.what();
    }
  }
}
// In a call that throws at once where the group is broken already.
void quietly(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error&) {
  }
}

TEST_F(NcclFailures, CallsThatDifferNameBoth) {
  for (const bool count : {true, false}) {
    on_devices(3, [&](ProcessGroup& group, Device device) {
      group.barrier().wait();
      const bool odd = group.rank() == 1;
      const Tensor x = Tensor::zeros({odd && count ? 6 : 5}, DType::f32, device);
      quietly([&] { odd && !count ? group.broadcast(x, 0) : group.all_reduce(x); });
      expect_broken(group, ErrorKind::desync,
                    AllOf(HasSubstr("rank 0 called all_reduce(sum, f32, 5) as its call 2"),
                          HasSubstr(count ? "rank 1 called all_reduce(sum, f32, 6) as its call 2"
                                          : "rank 1 called broadcast(f32, 5, root 0) as its")));
    });
    if (!cudasim::fake_libraries().wrong.empty()) expect_refused("ranks that call differently");
  }
}

TEST_F(NcclFailures, MessagesThatDoNotFitNameBoth) {
  for (const bool crossed : {true, false}) {  // both send first; or sizes differ
    on_devices(2, [&](ProcessGroup& group, Device device) {
      const int rank = group.rank();
      const Tensor x = Tensor::zeros({4 + rank}, DType::f32, device);
      quietly([&] { crossed || rank == 0 ? group.send(x, 1 - rank) : group.receive(x, 1 - rank); });
      expect_broken(group, ErrorKind::desync,
                    AllOf(HasSubstr("rank 0 called send(f32, 4, to 1) as its call 1"),
                          HasSubstr(crossed ? "rank 1 called send(f32, 5, to 0) as its call 1"
                                            : "rank 1 called receive(f32, 5, from 0) as its")));
    });
    if (!cudasim::fake_libraries().wrong.empty()) expect_refused("a message of another size");
  }
}

TEST_F(NcclFailures, ATimeoutNamesWhoIsMissing) {
  std::atomic<int> waiting{2};
  on_devices(3, [&](ProcessGroup& group, Device device) {
    group.barrier().wait();
    if (group.rank() == 1) {
      while (waiting > 0) std::this_thread::yield();
      return expect_broken(group, ErrorKind::hang, HasSubstr("for rank 1"));
    }
    group.set_timeout(milliseconds(group.rank() == 0 ? 200 : 60'000));
    const Tensor x = Tensor::zeros({3}, DType::f32, device);
    quietly([&] { group.all_reduce(x).wait(); });
    expect_broken(group, ErrorKind::hang,
                  AllOf(HasSubstr("in all_reduce(sum, f32, 3), its call 2: "),
                        HasSubstr("waited 200 ms"), HasSubstr("for rank 1")));
    EXPECT_THAT(group.recent_calls(), HasSubstr("#2 all_reduce(sum, f32, 3) has waited for"));
    synchronize(device);  // it is free again
    --waiting;
  });
}

// All have called, and the device does not come to an end.
TEST_F(NcclFailures, ADeviceThatStandsStillIsAHang) {
  std::atomic<bool> go{false};
  on_devices(2, [&](ProcessGroup& group, Device device) {
    group.barrier().wait();
    group.set_timeout(milliseconds(group.rank() == 0 ? 200 : 60'000));
    if (group.rank() == 0)  // its device has something else to do for long
      cudasim::enqueue_wait_for_others(cuda_context(0).stream, [&] { return go.load(); });
    quietly([&] { group.all_reduce(Tensor::zeros({3}, DType::f32, device)).wait(); });
    const char* text = "rank 0 waited 200 ms for the device in all_reduce(sum, f32, 3), its call 2";
    expect_broken(group, group.rank() == 0 ? ErrorKind::hang : ErrorKind::peer_lost,
                  HasSubstr(text));
    go = true;
    synchronize(device);
  });
}

TEST_F(NcclFailures, AnErrorOfTheNetworkIsALostPeer) {
  on_devices(3, [](ProcessGroup& group, Device device) {
    group.barrier().wait();
    if (group.rank() == 0) cudasim::fake_libraries().nccl_lost_rank = 2;
    quietly([&] {
      group.barrier().wait();
      group.all_reduce(Tensor::zeros({1000}, DType::f32, device)).wait();
    });
    expect_broken(group, ErrorKind::peer_lost, HasSubstr("remote process exited"));
    synchronize(device);
  });
}

TEST_F(NcclFailures, ARankThatEndsInAnErrorFreesTheOthers) {
  try {
    on_devices(3, [](ProcessGroup& group, Device device) {
      group.barrier().wait();
      if (group.rank() == 2) fail(ErrorKind::data, {"rank 2 has no data"});
      quietly([&] { group.all_reduce(Tensor::zeros({1000}, DType::f32, device)).wait(); });
      expect_broken(group, ErrorKind::peer_lost, HasSubstr("rank ended in an error"));
    });
    FAIL() << "expected the error of rank 2";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::data) << e.what();
  }
}

TEST_F(NcclFailures, AnAbortFromAnotherThreadFreesEveryone) {
  for (const bool in_nccl : {false, true}) {  // in the middle of a call that NCCL does not answer
    on_devices(3, [&](ProcessGroup& group, Device device) {
      group.barrier().wait();
      if (group.rank() == 0) cudasim::fake_libraries().nccl_polls = in_nccl ? 1 << 30 : 2;
      group.barrier().wait();
      std::thread other;
      if (group.rank() == 2)
        other = std::thread([&] {
          std::this_thread::sleep_for(milliseconds(20));
          group.abort("the data is gone");
        });
      if (group.rank() == 2 && !in_nccl)
        other.join();
      else
        quietly([&] { group.all_reduce(Tensor::zeros({1000}, DType::f32, device)).wait(); });
      expect_broken(group, ErrorKind::peer_lost, HasSubstr("group: the data is gone"));
      if (other.joinable()) other.join();
      synchronize(device);
    });
    cudasim::fake_libraries().nccl_polls = 2;
  }
}

TEST_F(NcclFailures, ANewGroupAfterAnAbort) {
  for (int life = 0; life < 3; ++life)
    on_devices(3, [&](ProcessGroup& group, Device device) {
      const Tensor x = Tensor::full({3}, 1, DType::f32, device);
      group.all_reduce(x).wait();
      EXPECT_EQ(x.to(Device{}).values<float>()[0], 3);
      if (life == 1) return;  // and one after an orderly end
      group.barrier().wait();
      if (group.rank() == life / 2) group.abort("again");
      expect_broken(group, ErrorKind::peer_lost, HasSubstr("again"));
    });
}

TEST_F(NcclFailures, ARankThatCannotJoinFreesTheOthers) {
  std::atomic<int> freed{0};
  EXPECT_THROW(run_local(3,
                         [&](ProcessGroup& host) {
                           try {
                             join_nccl(host, host.rank() == 1 ? 99 : host.rank());
                           } catch (const Error& e) {
                             freed += e.kind() == ErrorKind::peer_lost;
                             throw;
                           }
                         }),
               Error);
  EXPECT_EQ(freed, 2);
}

TEST_F(NcclFailures, TensorsOfAnotherDeviceAreRefused) {
  on_devices(2, [](ProcessGroup& group, Device) {
    try {
      group.all_reduce(Tensor::zeros({3}));
      ADD_FAILURE() << "expected an error";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("expected tensors on cuda:"));
    }
  });
}

// --- the stand-in itself ---

TEST_F(NcclFailures, TheStandInSeesMisuse) {
  const auto& nccl = kernels::cuda::nccl();
  ncclUniqueId id{}, unknown{};
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t comm = nullptr, second = nullptr;
  ncclResult_t state = ncclSuccess;
  cudaSetDevice(0);
  ASSERT_EQ(nccl.GetUniqueId(&id), ncclSuccess);
  EXPECT_EQ(nccl.CommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
  expect_refused("that blocks");
  config.blocking = 0;
  EXPECT_EQ(nccl.CommInitRankConfig(&comm, 1, unknown, 0, &config), ncclInvalidArgument);
  expect_refused("an identifier");
  ASSERT_EQ(nccl.CommInitRankConfig(&comm, 1, id, 0, &config), ncclInProgress);
  EXPECT_EQ(nccl.CommInitRankConfig(&second, 1, id, 0, &config), ncclInvalidUsage);
  expect_refused("a rank that has joined before");
  const auto settle = [&] {
    do ASSERT_EQ(nccl.CommGetAsyncError(comm, &state), ncclSuccess);
    while (state == ncclInProgress);
  };
  const Tensor x = Tensor::zeros({4}, DType::f32, {Device::Kind::cuda, 0});
  const void* data = x.view().data;
  const auto reduce = [&](size_t count) {
    return nccl.AllReduce(data, const_cast<void*>(data), count, ncclFloat32, ncclSum, comm,
                          cuda_context(0).stream);
  };
  EXPECT_EQ(reduce(4), ncclInvalidUsage);
  expect_refused("while another is in progress");
  settle();
  EXPECT_EQ(reduce(1 << 20), ncclInvalidArgument);
  expect_refused("not in the device's memory");
  EXPECT_EQ(nccl.Send(data, 4, ncclFloat32, 0, comm, nullptr), ncclInvalidUsage);
  expect_refused("to itself");
  EXPECT_EQ(nccl.GroupEnd(), ncclInvalidUsage);
  expect_refused("not begun");
  EXPECT_EQ(nccl.CommDestroy(comm), ncclInvalidUsage);
  expect_refused("not finalized");
  EXPECT_EQ(reduce(4), ncclInProgress);
  settle();
  EXPECT_EQ(nccl.CommAbort(comm), ncclSuccess);
  EXPECT_EQ(reduce(4), ncclInvalidArgument);
  expect_refused("or is gone");
  EXPECT_EQ(nccl.CommAbort(comm), ncclInvalidArgument);
  expect_refused("that is gone");
}

}  // namespace
}  // namespace pinion::dist
