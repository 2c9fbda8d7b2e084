// SPDX-License-Identifier: Apache-2.0
// Memory, copies, marks and recordings of a device, for the runtime.
#include "pinion/kernels/cuda/backend.h"

#include <memory>

#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/cuda/staging.h"
#include "pinion/kernels/cuda/workspace.h"

namespace pinion::cuda_backend {
namespace {

using kernels::cuda::check;

void count_waits(const CudaContext& ctx, int64_t waits = 1) {
  ctx.counts->waits.fetch_add(waits, std::memory_order_relaxed);
}

void wait_for(const CudaContext& ctx) {
  count_waits(ctx);
  check(cudaStreamSynchronize(ctx.stream), "cudaStreamSynchronize");
  ctx.workspace->check_indices();
}

// The second stream goes on only when the first has come to where it is now.
void let_wait(const CudaContext& first, const CudaContext& second) {
  cudaEvent_t here = nullptr;
  check(cudaSetDevice(first.device), "cudaSetDevice");
  check(cudaEventCreateWithFlags(&here, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaEventRecord(here, first.stream), "cudaEventRecord");
  check(cudaSetDevice(second.device), "cudaSetDevice");
  check(cudaStreamWaitEvent(second.stream, here, 0), "cudaStreamWaitEvent");
  check(cudaEventDestroy(here), "cudaEventDestroy");  // once it was reached
}

void copy_between(const CudaContext& from, const CudaContext& to, void* dst, const void* src,
                  int64_t bytes) {
  let_wait(from, to);  // `src` is written by then
  check(
      cudaMemcpyPeerAsync(dst, to.device, src, from.device, static_cast<size_t>(bytes), to.stream),
      "cudaMemcpyPeerAsync");
  let_wait(to, from);  // `src` may be written again only then
}

}  // namespace

void* allocate(int index, int64_t bytes) { return context(index).memory->take(bytes); }

void release(int index, void* data, int64_t bytes) noexcept {
  context(index).memory->give_back(data, bytes);
}

void trim(int index) noexcept { context(index).memory->trim(); }

int64_t free_bytes(int index) {
  context(index);
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  return static_cast<int64_t>(available);
}

void copy(int to, void* dst, int from, const void* src, int64_t bytes) {
  const bool host = to == kHost || from == kHost;
  PINION_CHECK(!host || !Recording::current(),
               "record: expected a step that leaves the host's memory alone, got a copy of ", bytes,
               to == kHost ? " bytes to the host" : " bytes from the host");
  if (from == kHost) {
    const CudaContext& ctx = context(to);
    return count_waits(ctx, ctx.staging->upload(dst, src, bytes));
  }
  const CudaContext& reader = context(from);
  if (!host && to != from) return copy_between(reader, context(to), dst, src, bytes);
  check(cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDefault, reader.stream),
        "cudaMemcpyAsync");
  if (to == kHost) wait_for(reader);
}

void synchronize(int index) { wait_for(context(index)); }

Activity activity(int index) {
  const CudaContext& ctx = context(index);
  return {ctx.memory->device_calls(), ctx.counts->waits, ctx.counts->launches, ctx.counts->replays,
          ctx.memory->reserved()};
}

class Mark {
 public:
  explicit Mark(const CudaContext& ctx) : ctx_(ctx) {
    check(cudaEventCreateWithFlags(&event_, cudaEventDefault), "cudaEventCreateWithFlags");
  }
  ~Mark() { (void)cudaEventDestroy(event_); }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;

  const CudaContext& ctx() const { return ctx_; }
  cudaEvent_t event() const { return event_; }

 private:
  const CudaContext& ctx_;
  cudaEvent_t event_ = nullptr;
};

Mark* make_mark(int index) { return new Mark(context(index)); }
void destroy(Mark* mark) noexcept { delete mark; }
void place(Mark* mark) {
  context(mark->ctx().device);
  check(cudaEventRecord(mark->event(), mark->ctx().stream), "cudaEventRecord");
}
bool reached(Mark* mark) {
  const cudaError_t status = cudaEventQuery(mark->event());
  if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
  return status == cudaSuccess;
}
void wait(Mark* mark) {
  count_waits(mark->ctx());
  check(cudaEventSynchronize(mark->event()), "cudaEventSynchronize");
}
double milliseconds_between(Mark* from, Mark* to) {
  wait(from);
  wait(to);
  float found = 0;
  check(cudaEventElapsedTime(&found, from->event(), to->event()), "cudaEventElapsedTime");
  return static_cast<double>(found);
}

Recording* begin_recording(int index) {
  auto recording = std::make_unique<Recording>(context(index));
  recording->begin();
  return recording.release();
}
void end_recording(Recording* recording) { recording->finish(); }
void abandon(Recording* recording) noexcept {
  recording->abandon();
  delete recording;
}
void replay(const Recording* recording) { recording->replay(); }
void destroy(Recording* recording) noexcept { delete recording; }

}  // namespace pinion::cuda_backend
