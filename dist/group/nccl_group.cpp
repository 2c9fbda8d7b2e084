// SPDX-License-Identifier: Apache-2.0
// NCCL with communicators that never block the host, and a thread that watches them.
#include "pinion/dist/group/nccl_group.h"

#include "pinion/kernels/check.h"

#ifdef PINION_WITH_NCCL
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "pinion/dist/group/flight_record.h"
#include "pinion/kernels/cuda/backend.h"
#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/cuda/nccl.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;
using kernels::cuda::check;

ncclDataType_t type_of(DType dtype) {
  constexpr ncclDataType_t kTypes[] = {ncclFloat32, ncclFloat64, ncclBfloat16, ncclFloat16,
                                       ncclInt64,   ncclInt32,   ncclUint8,    ncclUint8};
  return kTypes[static_cast<size_t>(dtype)];
}

ncclRedOp_t operation_of(ReduceOp op) {
  constexpr ncclRedOp_t kOps[] = {ncclSum, ncclAvg, ncclMin, ncclMax};
  return kOps[static_cast<size_t>(op)];
}

struct Broken {
  std::mutex mutex;  // also for every call of NCCL and of the host group
  std::optional<Error> error;

  void check() {
    const std::lock_guard lock(mutex);
    if (error) throw Error(*error);
  }
};

// One call on the group's stream. Its tensors stay until the device is through with them, because
// their memory would go to work of the device's own stream.
struct Flight : Work::State {
  Flight(Call c, cudaStream_t device_stream, std::shared_ptr<Broken> b)
      : call(std::move(c)), stream(device_stream), broken(std::move(b)) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "nccl: an event");
  }
  ~Flight() override { cudaEventDestroy(event); }

  bool done() override { return cudaEventQuery(event) != cudaErrorNotReady; }
  void wait() override {
    broken->check();
    check(cudaStreamWaitEvent(stream, event, 0), "nccl: waiting for an event");
  }

  Call call;
  cudaStream_t stream;
  cudaEvent_t event = nullptr;
  std::shared_ptr<Broken> broken;
  Clock::time_point begun = Clock::now();
  Tensor headers;  // of all ranks, and the work that fetches them
  Work compared;
};

class NcclGroup final : public ProcessGroup {
 public:
  NcclGroup(std::shared_ptr<ProcessGroup> host, Device device)
      : ProcessGroup(host->rank(), host->size()),
        host_(std::move(host)),
        device_(device),
        context_(cuda_backend::context(device.index)),
        nccl_(kernels::cuda::nccl()) {
    Tensor id({sizeof(ncclUniqueId)}, DType::u8);
    auto* bytes = static_cast<ncclUniqueId*>(id.mut().data);
    if (rank_ == 0) PINION_REQUIRE(device, nccl_.GetUniqueId(bytes) == ncclSuccess, last_error());
    host_->broadcast(id, 0).wait();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "nccl: a stream");
    settle(nccl_.CommInitRankConfig(&comm_, size_, *bytes, rank_, &config));
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclGroup() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    watcher_.join();
    if (broken_) return;  // aborted already
    cudaStreamSynchronize(stream_);
    nccl_.CommFinalize(comm_);
    nccl_.CommDestroy(comm_);
    cudaStreamDestroy(stream_);
  }

  const char* backend() const override { return "nccl"; }
  void abort(std::string_view reason) noexcept override {
    host_->abort(reason);
    const std::lock_guard lock(mutex_);
    break_with(Error(ErrorKind::peer_lost, "nccl group: " + std::string(reason)));
  }
  std::string recent_calls() const override { return record_->text(); }

 private:
  std::string last_error() const { return std::string("nccl: ") + nccl_.GetLastError(comm_); }

  // Until a call that may go on in the background is through; it does not wait for the device.
  void settle(ncclResult_t result) {
    const auto deadline = Clock::now() + timeout_;
    while (result == ncclInProgress && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::microseconds(10));
      if (nccl_.CommGetAsyncError(comm_, &result) != ncclSuccess) break;
    }
    PINION_REQUIRE(hang, result != ncclInProgress, "nccl: the other ranks did not answer in ",
                   timeout_.count(), " ms");
    PINION_REQUIRE(device, result == ncclSuccess, last_error());
  }

  // Under the mutex. Frees the device from kernels that wait for other ranks.
  void break_with(const Error& error) noexcept {
    if (broken_) return;
    broken_ = error;
    nccl_.CommAbort(comm_);
  }
  Work start(Call call) override {
    const std::lock_guard lock(mutex_);
    if (broken_) throw Error(*broken_);
    PINION_CHECK(!call.output.defined() || call.output.device() == device_, "nccl: expected ",
                 "tensors on ", device_.name(), ", got ", call.output.device().name());
    record_->begin(header_of(call));
    auto flight = std::make_shared<Flight>(std::move(call), context_.stream, shared_);
    compare_later(*flight);
    // After what the device was asked to compute so far.
    check(cudaEventRecord(flight->event, context_.stream), "nccl: an event");
    check(cudaStreamWaitEvent(stream_, flight->event, 0), "nccl: waiting for an event");
    try {
      settle(enqueue(flight->call));
    } catch (const Error& e) {
      break_with(e);
      throw;
    }
    check(cudaEventRecord(flight->event, stream_), "nccl: an event");
    record_->end(flight->call.sequence);
    flights_.push_back(flight);
    changed_.notify_all();
    return Work(flight);
  }

  ncclResult_t enqueue(Call& c) {
    if (c.operation == Operation::barrier) return ncclSuccess;  // compare_later() is one
    const auto count = static_cast<size_t>(c.count), part = count / static_cast<size_t>(size_);
    const ncclDataType_t type = type_of(c.dtype);
    const auto* in = static_cast<const char*>(c.input.view().data);
    auto* out = static_cast<char*>(c.output.mut().data);
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

  // The headers travel over the host group meanwhile.
  void compare_later(Flight& flight) {
    const Call& call = flight.call;
    if (call.operation == Operation::send || call.operation == Operation::receive) return;
    const CallHeader header = header_of(call);
    Tensor mine({sizeof header}, DType::u8);
    std::memcpy(mine.mut().data, &header, sizeof header);
    flight.headers = Tensor({size_ * static_cast<int64_t>(sizeof header)}, DType::u8);
    flight.compared = host_->all_gather(flight.headers, mine);
    if (call.operation == Operation::barrier) flight.compared.wait();
  }

  void compare(Flight& flight) {
    if (!flight.headers.defined() || !flight.compared.done()) return;
    flight.compared.wait();  // throws what the host group found
    std::vector<CallHeader> all(static_cast<size_t>(size_));
    std::memcpy(static_cast<void*>(all.data()), flight.headers.view().data,
                all.size() * sizeof all[0]);
    flight.headers = {};
    for (int r = 1; r < size_; ++r)
      if (!all[static_cast<size_t>(r)].matches(all[0]))
        fail_desync(0, all[0], r, all[static_cast<size_t>(r)]);
  }

  void watch() {
    std::unique_lock lock(mutex_);
    while (!stopping_ && !broken_) {
      try {
        look();
      } catch (const Error& e) {
        host_->abort(e.what());
        break_with(e);
      }
      if (flights_.empty())
        changed_.wait(lock, [&] { return stopping_ || broken_ || !flights_.empty(); });
      else
        changed_.wait_for(lock, std::chrono::milliseconds(5));
    }
  }

  void look() {
    ncclResult_t result = ncclSuccess;
    nccl_.CommGetAsyncError(comm_, &result);
    PINION_REQUIRE(peer_lost, result == ncclSuccess || result == ncclInProgress, last_error());
    for (auto f = flights_.begin(); f != flights_.end();) {
      Flight& flight = **f;
      compare(flight);
      if (flight.done() && !flight.headers.defined()) {
        f = flights_.erase(f);
        continue;
      }
      PINION_REQUIRE(hang, Clock::now() - flight.begun < timeout_, "nccl group: rank ", rank_,
                     " waited ", timeout_.count(), " ms in ", describe(header_of(flight.call)),
                     ", its call ", flight.call.sequence);
      ++f;
    }
  }

  std::shared_ptr<ProcessGroup> host_;
  const Device device_;
  const CudaContext& context_;
  const kernels::cuda::Nccl& nccl_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<FlightRecord> record_ = std::make_unique<FlightRecord>();
  std::shared_ptr<Broken> shared_ = std::make_shared<Broken>();
  std::mutex& mutex_ = shared_->mutex;  // for all that follows too
  std::optional<Error>& broken_ = shared_->error;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::list<std::shared_ptr<Flight>> flights_;
  std::thread watcher_;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_nccl_group(std::shared_ptr<ProcessGroup> host, Device device) {
  PINION_CHECK(device.kind == Device::Kind::cuda, "nccl: expected a CUDA device, got ",
               device.name());
  return std::make_shared<NcclGroup>(std::move(host), device);
}

}  // namespace pinion::dist

#else

namespace pinion::dist {

std::shared_ptr<ProcessGroup> make_nccl_group(std::shared_ptr<ProcessGroup>, Device) {
  fail(ErrorKind::config, {"nccl: this build has no CUDA, or did not find NCCL's header"});
}

}  // namespace pinion::dist

#endif
