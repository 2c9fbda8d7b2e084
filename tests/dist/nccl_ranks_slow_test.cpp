// SPDX-License-Identifier: Apache-2.0
// NCCL itself, with two and three ranks on one GPU: processes, since NCCL takes those for different
// hosts when NCCL_HOSTID says so, and refuses two ranks of a host on one device. tools/gpu_check
// runs this; elsewhere it is skipped. The simulator has a stand-in for NCCL and its own tests.
#include <gtest/gtest.h>

#ifdef PINION_WITH_NCCL

#include <signal.h>

#include <cstdlib>

#include "dist_testing.h"
#include "pinion/accel/launch/self_check.h"
#include "pinion/dist/group/nccl_group.h"
#include "pinion/kernels/cuda/library.h"
#include "pinion/runtime/device.h"

namespace pinion::dist {
namespace {

constexpr Device kDevice{Device::Kind::cuda, 0};
constexpr int kNothingHere = 99;  // the exit code for a machine without a GPU or without NCCL

// Before the first call of NCCL in the process.
void be_a_host_of_its_own(const ProcessGroup& group) {
  setenv("NCCL_HOSTID", ("pinion-rank" + std::to_string(group.rank())).c_str(), 1);
  for (const auto& [name, value] : {std::pair{"NCCL_SOCKET_IFNAME", "lo"},
                                    {"NCCL_NET", "Socket"},
                                    {"NCCL_IB_DISABLE", "1"},
                                    {"NCCL_NVLS_ENABLE", "0"}})
    setenv(name, value, 1);
  if (group.size() < 3) return;
  setenv("NCCL_ALGO", "Ring", 1);
  setenv("NCCL_PROTO", "Simple", 1);
}

using StatusOfAll = std::vector<int>;

// In children, which must be the first to call CUDA.
StatusOfAll run_on_one_gpu(int ranks, const Body& body) {
  return run_processes(ShmSegment::create(ranks), [&](ProcessGroup& host) {
    if (cuda_device_count() == 0) _exit(kNothingHere);
    try {
      const kernels::cuda::Library there(kernels::cuda::kNccl);
    } catch (const Error&) {
      _exit(kNothingHere);
    }
    be_a_host_of_its_own(host);
    host.set_timeout(std::chrono::seconds(40));
    body(*make_nccl_group({&host, [](auto*) {}}, kDevice));
  });
}

#define SKIP_WITHOUT_GPU(statuses)                                \
  for (const int status : statuses)                               \
    if (WIFEXITED(status) && WEXITSTATUS(status) == kNothingHere) \
  GTEST_SKIP() << "no GPU, or no NCCL"

class NcclRanks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(OnOneGpu, NcclRanks, testing::Values(2, 3),
                         testing::PrintToStringParamName());

TEST_P(NcclRanks, CollectivesAndTrainingAreRight) {
  const StatusOfAll statuses = run_on_one_gpu(
      GetParam(), [](ProcessGroup& group) { accel::self_check(group, kDevice, [](auto) {}); });
  SKIP_WITHOUT_GPU(statuses);
  for (const int status : statuses) EXPECT_EQ(status, 0);
}

TEST_P(NcclRanks, AKilledRankIsALostPeerAndTheDeviceIsFree) {
  const StatusOfAll statuses = run_on_one_gpu(GetParam(), [](ProcessGroup& group) {
    const Tensor x = Tensor::full({1 << 20}, 1, DType::f32, kDevice);
    group.all_reduce(x).wait();
    EXPECT_EQ(x.to(Device{}).values<float>()[0], static_cast<float>(group.size()));
    group.barrier().wait();
    if (group.rank() == 1) raise(SIGKILL);
    EXPECT_EQ(kind_of_error([&] {
                group.all_reduce(x).wait();
                group.barrier().wait();
              }),
              static_cast<int>(ErrorKind::peer_lost));
    synchronize(kDevice);
  });
  SKIP_WITHOUT_GPU(statuses);
  for (size_t r = 0; r < statuses.size(); ++r) EXPECT_EQ(statuses[r] == 0, r != 1) << "rank " << r;
}

TEST_P(NcclRanks, ARankThatGivesUpFreesTheOthers) {
  const StatusOfAll statuses = run_on_one_gpu(GetParam(), [](ProcessGroup& group) {
    const Tensor x = Tensor::full({1 << 20}, 1, DType::f32, kDevice);
    group.barrier().wait();
    if (group.rank() == 1) group.abort("the data is gone");
    EXPECT_EQ(kind_of_error([&] {
                group.all_reduce(x).wait();
                group.barrier().wait();
              }),
              static_cast<int>(ErrorKind::peer_lost));
    synchronize(kDevice);
  });
  SKIP_WITHOUT_GPU(statuses);
  for (const int status : statuses) EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace pinion::dist

#else

TEST(NcclRanks, AreOfBuildsWithNccl) { GTEST_SKIP() << "a build without NCCL's header has none"; }

#endif
