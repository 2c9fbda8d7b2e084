// SPDX-License-Identifier: Apache-2.0
// The one thread pool of CPU kernels. The caller takes part, work is claimed chunk by chunk, and
// the grid of chunks depends on the problem alone: partial results are combined in the order of
// chunks, so that the bits of a result do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <memory>

#include "pinion/kernels/context.h"
#include "pinion/kernels/types.h"

namespace pinion::kernels {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // the caller is one of them: starts threads - 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Calls task(arg, i) once for every i in [0, n), on this thread and idle threads of the pool, and
  // returns when all are done. A call from inside a task, or while another thread's call is under
  // way, runs in the caller alone. Rethrows the first exception of a task.
  void run(int64_t n, void (*task)(void* arg, int64_t chunk), void* arg);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Work below this many element-operations is not worth waking a thread for (about 10 us).
inline constexpr int64_t kParallelGrain = 32768;

PINION_INLINE int64_t chunk_count(int64_t n, int64_t grain) { return (n + grain - 1) / grain; }

// f(begin, end, chunk) over [0, n) in chunks of `grain`.
template <class F>
PINION_INLINE void for_chunks(const CpuContext& ctx, int64_t n, int64_t grain, const F& f) {
  if (n <= grain) {
    if (n > 0) f(int64_t{0}, n, int64_t{0});
    return;
  }
  struct Call {
    const F* f;
    int64_t n, grain;
  } call{&f, n, grain};
  ctx.pool->run(
      chunk_count(n, grain),
      [](void* arg, int64_t i) {
        const Call& c = *static_cast<Call*>(arg);
        const int64_t end = (i + 1) * c.grain;
        (*c.f)(i * c.grain, end < c.n ? end : c.n, i);
      },
      &call);
}

// f(begin, end, chunk) over rows of about `cost` element-operations each.
template <class F>
PINION_INLINE void for_rows(const CpuContext& ctx, int64_t rows, int64_t cost, const F& f) {
  if (rows * cost <= kParallelGrain) {  // the same grid, without a division
    if (rows > 0) f(int64_t{0}, rows, int64_t{0});
    return;
  }
  const int64_t grain = kParallelGrain / cost;
  for_chunks(ctx, rows, grain < 1 ? 1 : grain, f);
}

}  // namespace pinion::kernels
