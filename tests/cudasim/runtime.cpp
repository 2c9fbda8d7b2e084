// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime functions of include/cuda_runtime_api.h. Streams are queues of work that is done
// late, in a random legal order, so that a missing wait shows as data that is not there.
#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"

// Generations: how often it was recorded, and which record was reached.
struct CUevent_st {
  uint64_t recorded = 0, reached = 0;
};

struct CUstream_st {
  struct Work {
    std::function<void()> run;  // or, when there is none, a wait for `event`
    CUevent_st* event = nullptr;
    uint64_t generation = 0;
  };
  std::deque<Work> queue;

  bool ready() const {
    if (queue.empty()) return false;
    const Work& first = queue.front();
    return !first.event || first.event->reached >= first.generation;
  }
};

namespace cudasim {
namespace {

constexpr int kVersion = 12000;  // 12.0, as CUDA counts

struct Runtime {
  std::recursive_mutex mutex;
  CUstream_st default_stream;
  std::vector<CUstream_st*> streams{&default_stream};
  uint64_t random_state = 0;
  std::string error;  // of work that was done late; told once

  uint64_t random() {
    if (!random_state) random_state = options().seed * 0x9e3779b97f4a7c15u | 1;
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
  }
  CUstream_st& of(cudaStream_t stream) { return stream ? *stream : default_stream; }

  // Does one piece of work that may be done now; false when there is none.
  bool step() {
    std::vector<CUstream_st*> candidates;
    for (CUstream_st* s : streams)
      if (s->ready()) candidates.push_back(s);
    if (candidates.empty()) return false;
    CUstream_st& chosen = *candidates[random() % candidates.size()];
    const CUstream_st::Work work = std::move(chosen.queue.front());
    chosen.queue.pop_front();
    try {
      if (work.run) work.run();
    } catch (const Error& e) {
      if (error.empty()) error = e.what();
    }
    return true;
  }
  void put(cudaStream_t stream, CUstream_st::Work work) {
    of(stream).queue.push_back(std::move(work));
    while (random() % 4 == 0 && step()) {
    }
  }
  void finish(const CUstream_st& stream) {
    while (!stream.queue.empty()) {
      if (step()) continue;
      if (error.empty()) error = "cudasim: a stream waits for an event that is never reached";
      for (CUstream_st* s : streams) s->queue.clear();
    }
  }
  cudaError_t status() const { return error.empty() ? cudaSuccess : cudaErrorLaunchFailure; }
  cudaError_t finish_all() {
    for (CUstream_st* s : streams) finish(*s);
    return status();
  }
};

// Never destroyed: tensors in static storage are released late.
Runtime& runtime() {
  static auto* const all = new Runtime;
  return *all;
}

// A range that begins in device memory must lie in one allocation.
bool in_bounds(const void* p, size_t bytes) {
  return !is_device_memory(p, 0) || is_device_memory(p, bytes);
}

}  // namespace

cudaError_t enqueue_launch(const cudaLaunchConfig_t& config, std::unique_ptr<Call> call) {
  const bool cooperative = config.numAttrs > 0 && config.attrs->val.cooperative != 0;
  const LaunchShape shape{config.gridDim, config.blockDim, config.dynamicSmemBytes, cooperative};
  const std::lock_guard lock(runtime().mutex);
  try {
    check_shape(shape);
  } catch (const Error& e) {
    runtime().error = e.what();
    return cudaErrorInvalidConfiguration;
  }
  const std::shared_ptr<Call> shared = std::move(call);
  runtime().put(config.stream, {[=] { shared->run(shape); }});
  return cudaSuccess;
}

void enqueue_work(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard lock(runtime().mutex);
  runtime().put(stream, {std::move(work)});
}

}  // namespace cudasim

using cudasim::runtime;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = cudasim::kVersion;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetLastError() {
  const std::lock_guard lock(runtime().mutex);
  const cudaError_t status = runtime().status();
  runtime().error.clear();
  return status;
}
const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "an error of the CUDA runtime";
  }
}
// The text of what was found is told once: a later call finds a clean device.
const char* cudaGetErrorString(cudaError_t status) {
  const std::lock_guard lock(runtime().mutex);
  static std::string told;
  if (runtime().error.empty()) return cudaGetErrorName(status);
  told = std::exchange(runtime().error, {});
  return told.c_str();
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  constexpr size_t kMemory = size_t{1} << 36;  // of the device
  if (bytes > kMemory) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(runtime().mutex);
  *data = cudasim::allocate_device(bytes);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) { return cudaMalloc(data, bytes); }
cudaError_t cudaFree(void* data) {
  const std::lock_guard lock(runtime().mutex);
  const cudaError_t status = runtime().finish_all();
  try {
    cudasim::free_device(data);
  } catch (const cudasim::Error& e) {
    runtime().error = e.what();
    return cudaErrorInvalidValue;
  }
  return status;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!cudasim::in_bounds(to, bytes) || !cudasim::in_bounds(from, bytes))
    return cudaErrorInvalidValue;
  runtime().put(stream, {[=] { std::memcpy(to, from, bytes); }});
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return status == cudaSuccess ? cudaStreamSynchronize(nullptr) : status;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!cudasim::is_device_memory(to, bytes)) return cudaErrorInvalidValue;
  runtime().put(stream, {[=] { std::memset(to, value, bytes); }});
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(runtime().mutex);
  *stream = new CUstream_st;
  runtime().streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  runtime().finish(*stream);
  std::erase(runtime().streams, stream);
  delete stream;
  return runtime().status();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  runtime().finish(runtime().of(stream));
  return runtime().status();
}
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(runtime().mutex);
  return runtime().finish_all();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  const cudaError_t status = runtime().finish_all();
  delete event;
  return status;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  const uint64_t generation = ++event->recorded;
  runtime().put(stream, {[=] { event->reached = std::max(event->reached, generation); }});
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(runtime().mutex);
  if (event->recorded) runtime().put(stream, {nullptr, event, event->recorded});
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  while (event->reached < event->recorded && runtime().step()) {
  }
  return runtime().status();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  if (event->reached < event->recorded) return cudaErrorNotReady;
  return runtime().status();
}
