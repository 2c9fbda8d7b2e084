// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime functions of include/cuda_runtime_api.h. Streams are queues of work that is done
// late, in a random legal order, so that a missing wait shows as data that is not there.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda.h"
#include "cuda_runtime_api.h"
#include "host_threads.h"

// Generations: how often it was recorded, and which record was reached.
struct CUevent_st {
  uint64_t recorded = 0, reached = 0;
  int device = 0;
};

struct CUstream_st {
  struct Work {
    std::function<void()> run;    // none: only a wait
    std::function<bool()> ready;  // whether it may be done; none: it may
    bool others = false;          // it waits for what other threads of the host will do
  };
  std::deque<Work> queue;
  int device = 0;
  CUgraph_st* capture = nullptr;  // takes the work instead of the queue
  bool capture_is_valid = false;

  bool ready() const { return !queue.empty() && (!queue.front().ready || queue.front().ready()); }
};

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

namespace cudasim {
namespace {

constexpr int kVersion = 12000;  // 12.0, as CUDA counts

// CUDASIM_DEVICES: how many there are, 1 unless said otherwise. Their memory is the same machine's,
// but streams, events and the ends of copies must be those of the device that the caller says.
int device_count() {
  static const int count = [] {
    const char* text = std::getenv("CUDASIM_DEVICES");
    return text ? std::max(std::atoi(text), 1) : 1;
  }();
  return count;
}
thread_local int device_of_thread = 0;
struct Allocation {
  int device;
  size_t bytes;
};

struct Runtime {
  std::recursive_mutex mutex;
  CUstream_st default_stream;
  std::vector<CUstream_st*> streams{&default_stream};
  uint64_t random_state = 0;
  std::string error;                // of work that was done late; told once
  std::vector<CUevent_st*> doomed;  // destroyed, but there may be work that names them
  std::map<const char*, Allocation> allocations;  // by cudaMalloc: on which device

  uint64_t random() {
    if (!random_state) random_state = options().seed * 0x9e3779b97f4a7c15u | 1;
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
  }
  CUstream_st& of(cudaStream_t stream) { return stream ? *stream : default_stream; }
  bool is_on(cudaStream_t stream, int device) const { return !stream || stream->device == device; }
  // Memory that other means than cudaMalloc gave is on every device.
  bool is_memory_of(int device, const void* p) const {
    const auto* at = static_cast<const char*>(p);
    const auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return true;
    const auto& [begin, allocation] = *std::prev(after);
    return at >= begin + allocation.bytes || allocation.device == device;
  }

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
    if (CUgraph_st* graph = of(stream).capture) {
      if (work.run) graph->work.push_back(std::move(work.run));
      return;
    }
    of(stream).queue.push_back(std::move(work));
    while (random() % 4 == 0 && step()) {
    }
  }
  // Until `done`. While only other threads can make the work go on, they have the mutex.
  template <class Done>
  void work_until(Done done) {
    while (!done()) {
      if (step()) continue;
      if (std::any_of(streams.begin(), streams.end(), waits_for_others)) {
        mutex.unlock();
        std::this_thread::sleep_for(std::chrono::microseconds(20));
        mutex.lock();
        continue;
      }
      if (error.empty()) error = "cudasim: a stream waits for an event that is never reached";
      for (CUstream_st* s : streams) s->queue.clear();
      return;
    }
  }
  static bool waits_for_others(const CUstream_st* s) {
    return !s->queue.empty() && s->queue.front().others;
  }
  static bool is_idle(const CUstream_st* s) { return s->queue.empty(); }
  void finish(const CUstream_st& stream) {
    work_until([&] { return is_idle(&stream); });
  }
  cudaError_t status() const { return error.empty() ? cudaSuccess : cudaErrorLaunchFailure; }
  cudaError_t finish_device(int device) {
    work_until([&] {
      return std::all_of(streams.begin(), streams.end(),
                         [&](const CUstream_st* s) { return s->device != device || is_idle(s); });
    });
    if (std::all_of(streams.begin(), streams.end(), is_idle))
      for (const CUevent_st* event : std::exchange(doomed, {})) delete event;
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
  if (!runtime().is_on(config.stream, device_of_thread)) return cudaErrorInvalidDevice;
  try {
    check_shape(shape);
  } catch (const Error& e) {
    runtime().error = e.what();
    return cudaErrorInvalidConfiguration;
  }
  const std::shared_ptr<Call> shared = std::move(call);
  runtime().put(config.stream, {[=] { shared->run(shape); }, {}});
  return cudaSuccess;
}

void enqueue_work(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard lock(runtime().mutex);
  runtime().put(stream, {std::move(work), {}});
}
int current_device() { return device_of_thread; }
void enqueue_wait_for_others(cudaStream_t stream, std::function<bool()> until) {
  const std::lock_guard lock(runtime().mutex);
  runtime().put(stream, {{}, std::move(until), true});
}
std::unique_lock<std::recursive_mutex> lock_runtime() { return std::unique_lock(runtime().mutex); }

}  // namespace cudasim

using cudasim::runtime;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = cudasim::device_count();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= cudasim::device_count()) return cudaErrorInvalidDevice;
  cudasim::device_of_thread = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= cudasim::device_count()) return cudaErrorInvalidDevice;
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;  // an sm_90
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
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
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
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

// A thread's mode of capture; with one thread that captures, it decides about its own calls only.
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
// Calls that would wait, or take memory, end the recordings of this process.
static bool ends_recordings() {
  if (capture_mode == cudaStreamCaptureModeRelaxed) return false;
  bool ended = false;
  for (CUstream_st* s : runtime().streams)
    if (s->capture) ended = true, s->capture_is_valid = false;
  return ended;
}
constexpr size_t kMemory = size_t{1} << 36;  // of the device
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (bytes > kMemory) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(runtime().mutex);
  if (ends_recordings()) return cudaErrorStreamCaptureUnsupported;
  *data = cudasim::allocate_device(bytes);
  runtime().allocations[static_cast<const char*>(*data)] = {cudasim::device_of_thread, bytes};
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) { return cudaMalloc(data, bytes); }
cudaError_t cudaFree(void* data) {
  const std::lock_guard lock(runtime().mutex);
  if (ends_recordings()) return cudaErrorStreamCaptureUnsupported;
  const auto found = runtime().allocations.find(static_cast<const char*>(data));
  const bool known = found != runtime().allocations.end();
  const cudaError_t status =
      runtime().finish_device(known ? found->second.device : cudasim::device_of_thread);
  try {
    runtime().allocations.erase(static_cast<const char*>(data));
    cudasim::free_device(data);
  } catch (const cudasim::Error& e) {
    runtime().error = e.what();
    return cudaErrorInvalidValue;
  }
  return status;
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = kMemory;  // no account is kept
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!cudasim::in_bounds(to, bytes) || !cudasim::in_bounds(from, bytes))
    return cudaErrorInvalidValue;
  runtime().put(stream, {[=] { std::memcpy(to, from, bytes); }, {}});
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!runtime().is_memory_of(to_device, to) || !runtime().is_memory_of(from_device, from))
    return cudaErrorInvalidDevice;
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return status == cudaSuccess ? cudaStreamSynchronize(nullptr) : status;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!cudasim::is_device_memory(to, bytes)) return cudaErrorInvalidValue;
  runtime().put(stream, {[=] { std::memset(to, value, bytes); }, {}});
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(runtime().mutex);
  *stream = new CUstream_st;
  (*stream)->device = cudasim::device_of_thread;
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
  CUstream_st& awaited = runtime().of(stream);
  if (awaited.capture) {
    awaited.capture_is_valid = false;
    return cudaErrorStreamCaptureUnsupported;
  }
  runtime().finish(awaited);
  return runtime().status();
}
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(runtime().mutex);
  return runtime().finish_device(cudasim::device_of_thread);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  (*event)->device = cudasim::device_of_thread;
  return cudaSuccess;
}
// Waits for nothing: the work that names it goes on.
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  runtime().doomed.push_back(event);
  return runtime().status();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  if (!runtime().is_on(stream, event->device)) return cudaErrorInvalidDevice;
  const uint64_t generation = ++event->recorded;
  runtime().put(stream, {[=] { event->reached = std::max(event->reached, generation); }, {}});
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(runtime().mutex);
  if (const uint64_t generation = event->recorded)
    runtime().put(stream, {{}, [=] { return event->reached >= generation; }});
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  runtime().work_until([&] { return event->reached >= event->recorded; });
  return runtime().status();
}
// A device works on while a program asks how far it is.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(runtime().mutex);
  if (event->reached < event->recorded) runtime().step();
  if (event->reached < event->recorded) return cudaErrorNotReady;
  return runtime().status();
}

// The simulator has no clock: two marks in their order are a millisecond apart.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const std::lock_guard lock(runtime().mutex);
  if (!from->recorded || !to->recorded) return cudaErrorInvalidValue;
  if (from->reached < from->recorded || to->reached < to->recorded) return cudaErrorNotReady;
  *milliseconds = from == to ? 0.0f : 1.0f;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(runtime().mutex);
  if (!stream || stream->capture) return cudaErrorStreamCaptureUnsupported;
  stream->capture = new CUgraph_st;
  stream->capture_is_valid = true;
  capture_mode = mode;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(runtime().mutex);
  *graph = nullptr;
  if (!stream->capture) return cudaErrorInvalidValue;
  const std::unique_ptr<CUgraph_st> done(std::exchange(stream->capture, nullptr));
  if (!stream->capture_is_valid) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st(*done);
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const std::lock_guard lock(runtime().mutex);
  for (const std::function<void()>& work : exec->work) runtime().put(stream, {work, {}});
  return cudaSuccess;
}
// As on a device, replays under way go on.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
