// SPDX-License-Identifier: Apache-2.0
#include "pinion/bench/gpu/stopwatch.h"

#include <algorithm>
#include <chrono>

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/runtime/device.h"

namespace pinion::bench {
namespace {

using Clock = std::chrono::steady_clock;
using kernels::cuda::check;

constexpr int64_t kFlushed = 256 << 20;  // bytes of all sets: five times the 50 MB L2 of an H100
constexpr int kMostSets = 64;
constexpr double kSampleUs = 2000;  // of a sample at least: events resolve half a microsecond
constexpr int kMostRuns = 2000;     // of a sample

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(const CudaContext& ctx) {
    check(cudaEventRecord(event_, ctx.stream), "cudaEventRecord");
  }
  double microseconds_since(const Event& begin) {
    check(cudaEventSynchronize(event_), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin.event_, event_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_{};
};

struct Sample {
  double device_us, host_us;  // of one run
};

class Rotation {
 public:
  explicit Rotation(const GpuCase& c) {
    const int64_t wanted = c.cold > 0 ? (kFlushed + c.cold - 1) / c.cold + 1 : 1;
    const auto sets = static_cast<size_t>(std::min<int64_t>(wanted, kMostSets));
    for (size_t i = 0; i < sets; ++i) sets_.push_back(c.make());
  }
  int sets() const { return static_cast<int>(sets_.size()); }

  Sample sample(int runs) {
    const CudaContext& ctx = cuda_context(0);
    begin_.record(ctx);
    const auto start = Clock::now();
    for (int i = 0; i < runs; ++i) sets_[next_++ % sets_.size()]();
    const std::chrono::duration<double, std::micro> asked = Clock::now() - start;
    end_.record(ctx);
    return {end_.microseconds_since(begin_) / runs, asked.count() / runs};
  }

 private:
  std::vector<std::function<void()>> sets_;
  size_t next_ = 0;
  Event begin_, end_;
};

}  // namespace

GpuTimes time_on_gpu(const GpuCase& c, int samples) {
  cuda_context(0);  // reports a missing device before anything else does
  Rotation rotation(c);
  rotation.sample(rotation.sets());  // first runs load code and take memory
  const double one = rotation.sample(rotation.sets()).device_us;
  GpuTimes out;
  out.sets = rotation.sets();
  out.batch = static_cast<int>(std::clamp<double>(kSampleUs / std::max(one, 0.1), 1, kMostRuns));
  for (int i = 0; i < samples; ++i) {
    const Sample s = rotation.sample(out.batch);
    out.samples_us.push_back(s.device_us);
    out.host_us = i == 0 ? s.host_us : std::min(out.host_us, s.host_us);
  }
  return out;
}

}  // namespace pinion::bench
