// SPDX-License-Identifier: Apache-2.0
// NCCL with communicators that never block the host, and a thread that watches them.
#include "pinion/dist/group/nccl_group.h"

#include <cstdlib>

#include "pinion/kernels/check.h"

#ifdef PINION_WITH_NCCL
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "pinion/dist/group/board_group.h"
#include "pinion/dist/group/compare_calls.h"
#include "pinion/kernels/cuda/backend.h"
#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/cuda/nccl.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;
using kernels::cuda::check;

// How often the watcher looks at the device, and at the other ranks; and how often a caller asks
// whether NCCL, which works behind its back, is through with its call.
constexpr std::chrono::microseconds kLook{200}, kRollCall{5000}, kSettle{10};

ncclDataType_t type_of(DType dtype) {
  constexpr ncclDataType_t kTypes[] = {ncclFloat32, ncclFloat64, ncclBfloat16, ncclFloat16,
                                       ncclInt64,   ncclInt32,   ncclUint8,    ncclUint8};
  return kTypes[static_cast<size_t>(dtype)];
}

ncclRedOp_t operation_of(ReduceOp op) {
  constexpr ncclRedOp_t kOps[] = {ncclSum, ncclAvg, ncclMin, ncclMax};
  return kOps[static_cast<size_t>(op)];
}

// What a group shares with the calls that are under way.
struct Shared {
  std::mutex mutex;  // of what follows, of every Flight's progress, and for every call of NCCL
  std::condition_variable changed;
  std::optional<Error> broken;

  void check() const {
    if (broken) throw Error(*broken);
  }
};

// One call under way. Its tensors stay until the device is through with them, because their memory
// would go to work of the device's own stream.
struct Flight : Work::State {
  Flight(Call c, std::chrono::milliseconds limit, cudaStream_t device_stream,
         std::shared_ptr<Shared> s)
      : call(std::move(c)), timeout(limit), stream(device_stream), shared(std::move(s)) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "nccl: an event");
  }
  ~Flight() override { cudaEventDestroy(event); }
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

  bool is_barrier() const { return call.operation == Operation::barrier; }

  bool done() override {
    const std::lock_guard lock(shared->mutex);
    return ended || shared->broken || (!is_barrier() && cudaEventQuery(event) == cudaSuccess);
  }
  void wait() override {
    std::unique_lock lock(shared->mutex);
    if (is_barrier()) shared->changed.wait(lock, [&] { return ended || shared->broken; });
    if (ended) return;
    shared->check();
    check(cudaStreamWaitEvent(stream, event, 0), "nccl: waiting for an event");
  }

  const Call call;
  const std::chrono::milliseconds timeout;
  const cudaStream_t stream;  // the device's own
  const std::shared_ptr<Shared> shared;
  cudaEvent_t event = nullptr;           // behind the call, once it is launched
  bool launched = false, ended = false;  // under the mutex
};

class NcclGroup final : public ProcessGroup {
 public:
  NcclGroup(std::shared_ptr<ProcessGroup> host, Device device)
      : ProcessGroup(host->rank(), host->size()),
        host_(std::move(host)),
        board_(dynamic_cast<BoardGroup*>(host_.get())),
        device_(device),
        context_(cuda_backend::context(device.index)),
        nccl_(kernels::cuda::nccl()) {
    timeout_ = host_->timeout();
    Tensor id({sizeof(ncclUniqueId)}, DType::u8);
    auto* bytes = static_cast<ncclUniqueId*>(id.mut().data);
    if (rank_ == 0) expect_success(nccl_.GetUniqueId(bytes));
    host_->broadcast(id, 0).wait();
    host_->barrier().wait();  // NCCL would wait in vain for a rank that did not come so far
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "nccl: a stream");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    try {
      std::unique_lock lock(mutex_);
      settle(lock, nccl_.CommInitRankConfig(&comm_, size_, *bytes, rank_, &config));
    } catch (const Error& e) {
      close(e);
      throw;
    }
    watcher_ = std::thread([this] { watch(); });
  }

  // What is under way comes to its end before, unless this happens because of an error.
  ~NcclGroup() override {
    if (std::uncaught_exceptions() > 0) abort("a rank ended in an error");
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      shared_->changed.notify_all();
    }
    watcher_.join();
    std::optional<Error> failed;
    if (!broken_) {
      try {
        std::unique_lock lock(mutex_);
        settle(lock, nccl_.CommFinalize(comm_));
        nccl_.CommDestroy(comm_);
      } catch (const Error& e) {
        failed = e;
      }
    }
    close(failed);
  }

  const char* backend() const override { return "nccl"; }
  void abort(std::string_view reason) noexcept override {
    host_->abort(reason);
    const std::lock_guard lock(mutex_);
    break_with(Error(ErrorKind::peer_lost, cat({"nccl group: ", reason})));
  }
  std::string recent_calls() const override { return record_->text(); }

 private:
  void close(const std::optional<Error>& error) {
    const std::lock_guard lock(mutex_);
    if (error) break_with(*error);
    cudaStreamSynchronize(stream_);  // an abort ends what is there
    cudaStreamDestroy(stream_);
  }

  void expect_success(ncclResult_t result) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    const bool lost = result == ncclRemoteError || result == ncclSystemError;
    fail(lost ? ErrorKind::peer_lost : ErrorKind::device,
         {"nccl group: rank ", rank_, " got \"", nccl_.GetErrorString(result),
          "\": ", nccl_.GetLastError(comm_)});
  }

  // Until a call that may go on in the background is through; it does not wait for the device. The
  // others have the lock meanwhile, so that they can break the group.
  void settle(std::unique_lock<std::mutex>& lock, ncclResult_t result) {
    const auto deadline = Clock::now() + timeout_;
    while (result == ncclInProgress) {
      PINION_REQUIRE(hang, Clock::now() < deadline, "nccl group: rank ", rank_, " waited ",
                     timeout_.count(), " ms for NCCL");
      lock.unlock();
      std::this_thread::sleep_for(kSettle);
      lock.lock();
      shared_->check();
      expect_success(nccl_.CommGetAsyncError(comm_, &result));
    }
    expect_success(result);
  }

  // Under the mutex. Frees the device from kernels that wait for other ranks.
  void break_with(const Error& error) noexcept {
    if (broken_) return;
    broken_ = error;
    if (comm_) nccl_.CommAbort(comm_);
    shared_->changed.notify_all();
  }
  // The same, and tells the others; all of them find calls that differ, and the same text for it.
  void give_up(const Error& error) noexcept {
    if (!broken_ && error.kind() != ErrorKind::desync) host_->abort(error.what());
    break_with(error);
  }

  Work start(Call call) override {
    PINION_CHECK(!call.output.defined() || call.output.device() == device_, "nccl: expected ",
                 "tensors on ", device_.name(), ", got ", call.output.device().name());
    cuda_backend::context(device_.index);  // the calling thread may be at another device
    const auto flight =
        std::make_shared<Flight>(std::move(call), timeout_, context_.stream, shared_);
    std::unique_lock lock(mutex_);
    shared_->check();
    record_->begin(header_of(flight->call));
    flights_.push_back(flight);  // the ranks compare their calls while this one is launched
    shared_->changed.notify_all();
    try {
      if (!flight->is_barrier()) launch(lock, *flight);
    } catch (const Error& e) {
      give_up(e);
      throw Error(*broken_);
    }
    return Work(flight);
  }

  void launch(std::unique_lock<std::mutex>& lock, Flight& flight) {
    // After what the device was asked to compute so far.
    check(cudaEventRecord(flight.event, context_.stream), "nccl: an event");
    check(cudaStreamWaitEvent(stream_, flight.event, 0), "nccl: waiting for an event");
    settle(lock, enqueue(flight.call));  // only then it is on the stream
    check(cudaEventRecord(flight.event, stream_), "nccl: an event");
    flight.launched = true;
  }

  ncclResult_t enqueue(const Call& c) {
    const auto count = static_cast<size_t>(c.count), part = count / static_cast<size_t>(size_);
    const ncclDataType_t type = type_of(c.dtype);
    const auto* in = static_cast<const char*>(c.input.view().data);
    auto* out = c.operation == Operation::send ? nullptr  // that tensor stays as it is
                                               : static_cast<char*>(Tensor(c.output).mut().data);
    switch (c.operation) {
      case Operation::broadcast:
        return nccl_.Broadcast(in, out, count, type, c.peer, comm_, stream_);
      case Operation::all_reduce:
        return nccl_.AllReduce(in, out, count, type, operation_of(c.reduce), comm_, stream_);
      case Operation::reduce_scatter:
        return nccl_.ReduceScatter(in, out, part, type, operation_of(c.reduce), comm_, stream_);
      case Operation::all_gather: return nccl_.AllGather(in, out, count, type, comm_, stream_);
      case Operation::send: return nccl_.Send(in, count, type, c.peer, comm_, stream_);
      case Operation::receive: return nccl_.Recv(out, count, type, c.peer, comm_, stream_);
      default: break;
    }
    const auto bytes = part * static_cast<size_t>(size_of(c.dtype));
    nccl_.GroupStart();
    for (int r = 0; r < size_; ++r) {
      const auto at = static_cast<size_t>(r) * bytes;
      nccl_.Send(in + at, part, type, r, comm_, stream_);
      nccl_.Recv(out + at, part, type, r, comm_, stream_);
    }
    return nccl_.GroupEnd();
  }

  // The watcher: the only one that uses the host group from now on, but for abort(). It takes the
  // calls one after the other, as the stream does.
  void watch() {
    std::unique_lock lock(mutex_);
    try {
      cuda_backend::context(device_.index);
      while (true) {
        shared_->changed.wait(lock, [&] { return stopping_ || broken_ || !flights_.empty(); });
        if (broken_ || flights_.empty()) return;
        std::shared_ptr<Flight> flight = flights_.front();
        lock.unlock();
        meet(*flight);
        lock.lock();
        if (!flight->is_barrier()) await_device(lock, *flight);
        flight->ended = true;
        record_->end(flight->call.sequence);
        flights_.pop_front();
        shared_->changed.notify_all();
        lock.unlock();
        flight.reset();  // gives memory back, which may wait for the device
        lock.lock();
      }
    } catch (const Error& e) {
      if (!lock.owns_lock()) lock.lock();
      give_up(e);
    }
  }

  // Until all ranks have made the call; the host group finds who does not.
  void meet(const Flight& flight) {
    const CallHeader mine = header_of(flight.call);
    host_->set_timeout(flight.timeout);
    try {
      compare_calls(*host_, mine);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::desync) throw;  // every rank says the same
      fail(e.kind(), {"nccl group: rank ", rank_, " in ", describe(mine), ", its call ",
                      mine.sequence, ": ", e.what()});
    }
  }

  // Until the device is through with a call that all ranks have made.
  void await_device(std::unique_lock<std::mutex>& lock, const Flight& flight) {
    const auto met = Clock::now();
    for (auto counted = met;;) {
      shared_->check();
      ncclResult_t result = ncclSuccess;
      expect_success(nccl_.CommGetAsyncError(comm_, &result));
      expect_success(result);
      const cudaError_t state = flight.launched ? cudaEventQuery(flight.event) : cudaErrorNotReady;
      if (state == cudaSuccess) return;
      if (state != cudaErrorNotReady) check(state, "nccl: an event");
      const auto now = Clock::now();
      PINION_REQUIRE(hang, now - met < flight.timeout, "nccl group: rank ", rank_, " waited ",
                     flight.timeout.count(), " ms for the device in ",
                     describe(header_of(flight.call)), ", its call ", flight.call.sequence);
      lock.unlock();
      if (board_ && now - counted > kRollCall) board_->check_peers(), counted = now;
      std::this_thread::sleep_for(kLook);
      lock.lock();
    }
  }

  std::shared_ptr<ProcessGroup> host_;
  BoardGroup* board_;  // the same, where it can say that ranks are gone
  const Device device_;
  const CudaContext& context_;
  const kernels::cuda::Nccl& nccl_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<FlightRecord> record_ = std::make_unique<FlightRecord>();
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  std::mutex& mutex_ = shared_->mutex;  // for all that follows too
  std::optional<Error>& broken_ = shared_->broken;
  bool stopping_ = false;
  std::deque<std::shared_ptr<Flight>> flights_;  // in the order of the calls
  std::thread watcher_;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_nccl_group(const std::shared_ptr<ProcessGroup>& host,
                                              Device device) {
  PINION_CHECK(device.kind == Device::Kind::cuda, "nccl: expected a CUDA device, got ",
               device.name());
  try {
    return std::make_shared<NcclGroup>(host, device);
  } catch (const std::exception& e) {
    host->abort(e.what());  // nobody waits for this rank
    throw;
  }
}

}  // namespace pinion::dist

#else

namespace pinion::dist {

std::shared_ptr<ProcessGroup> make_nccl_group(const std::shared_ptr<ProcessGroup>&, Device) {
  fail(ErrorKind::config, {"nccl: this build has no CUDA, or did not find NCCL's header"});
}

}  // namespace pinion::dist

#endif

namespace pinion::dist {

void fix_nccl_order() {
  // A ring adds in the order of the ring; trees and switches (NVLS, CollNet) are chosen by size and
  // by what else the machine has.
  constexpr const char* kChoices[][2] = {{"NCCL_ALGO", "Ring"},
                                         {"NCCL_PROTO", "Simple"},
                                         {"NCCL_NVLS_ENABLE", "0"},
                                         {"NCCL_COLLNET_ENABLE", "0"}};
  for (const auto& [name, value] : kChoices) setenv(name, value, 0);  // NOLINT: before any thread
}

}  // namespace pinion::dist
