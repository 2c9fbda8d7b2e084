// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/recording.h"

namespace pinion::kernels::cuda {
namespace {

thread_local Recording* recording = nullptr;  // of this thread

constexpr int kCountThreads = 128;

__global__ void __launch_bounds__(kCountThreads)
    count(const uint64_t* uses, int streams, uint64_t* steps) {
  for (int i = static_cast<int>(threadIdx.x); i < streams; i += kCountThreads) steps[i] += uses[i];
}

}  // namespace

Recording* Recording::current() { return recording; }

void Recording::begin() {
  constexpr int64_t kBytes = 2 * kMostStreams * int64_t{sizeof(uint64_t)};  // steps and uses
  steps_ = static_cast<uint64_t*>(ctx_.memory->take(kBytes));
  PINION_REQUIRE(out_of_memory, steps_, "record: the device has no ", kBytes, " bytes left");
  check(cudaMemsetAsync(steps_, 0, kBytes, ctx_.stream), "cudaMemsetAsync");
  memory_.begin();
  recording = this;
  const cudaError_t status = cudaStreamBeginCapture(ctx_.stream, cudaStreamCaptureModeThreadLocal);
  if (status == cudaSuccess) return;
  recording = nullptr;
  memory_.end();
  fail_cuda(status, "cudaStreamBeginCapture");
}

void Recording::finish() {
  if (!streams_.empty()) count_steps();
  recording = nullptr;
  memory_.end();
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(ctx_.stream, &graph), "cudaStreamEndCapture");
  const cudaError_t status = cudaGraphInstantiate(&exec_, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  std::vector<uint64_t> uses;
  for (const Stream& s : streams_) uses.push_back(s.uses);
  if (uses.empty()) return;
  check(cudaMemcpyAsync(steps_ + kMostStreams, uses.data(), uses.size() * sizeof(uint64_t),
                        cudaMemcpyHostToDevice, ctx_.stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(ctx_.stream), "cudaStreamSynchronize");
}

void Recording::abandon() {
  recording = nullptr;
  memory_.end();
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(ctx_.stream, &graph) == cudaSuccess && graph)
    (void)cudaGraphDestroy(graph);
  (void)cudaGetLastError();  // of a recording that something had ended already
}

void Recording::replay() const {
  ctx_.counts->count_replay();
  check(cudaGraphLaunch(exec_, ctx_.stream), "cudaGraphLaunch");
}

Recording::~Recording() {
  (void)cudaStreamSynchronize(ctx_.stream);  // replays may be under way
  if (exec_) (void)cudaGraphExecDestroy(exec_);
  if (steps_) ctx_.memory->give_back(steps_, 2 * kMostStreams * int64_t{sizeof(uint64_t)});
}

const uint64_t* Recording::steps_of(const PhiloxKey& key) {
  size_t i = 0;
  while (i < streams_.size() && (streams_[i].seed != key.seed || streams_[i].stream != key.stream))
    ++i;
  if (i == streams_.size()) {
    PINION_CHECK(i < kMostStreams, "record: expected at most ", kMostStreams,
                 " streams of random numbers in a step");
    streams_.push_back({key.seed, key.step, 0, key.stream});
  }
  PINION_CHECK(key.step >= streams_[i].first,
               "record: expected the uses of a stream of random numbers in the order of their "
               "steps, got ",
               key.step, " after ", streams_[i].first);
  const uint64_t uses = key.step - streams_[i].first + 1;
  if (uses > streams_[i].uses) streams_[i].uses = uses;
  return steps_ + i;
}

void Recording::count_steps() {
  launch(count, {1, kCountThreads}, ctx_, steps_ + kMostStreams, static_cast<int>(streams_.size()),
         steps_);
}

}  // namespace pinion::kernels::cuda
