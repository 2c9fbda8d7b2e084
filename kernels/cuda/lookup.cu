// SPDX-License-Identifier: Apache-2.0
// Reading and accumulating by index: embedding and gather. An index outside its range reads as 0
// and is reported when the host next waits for the device.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/cuda/words.cuh"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kStrip = 8 * kWarp;  // columns of a gradient that one warp sums at a time

// The range of an index, and where to report one outside it.
struct Range {
  const char* who;
  int64_t extent;
  WrongIndex* report;

  __device__ __forceinline__ bool has(int64_t i) const {
    const bool inside = i >= 0 && i < extent;
    if (!inside && atomicExch(&report->found, 1u) == 0)
      report->who = who, report->got = i, report->extent = extent;
    return inside;
  }
};
Range range(const CudaContext& ctx, const char* who, int64_t extent) {
  return {who, extent, ctx.workspace->wrong_index()};
}

// y[i,:] = rows[ids[i],:] in words
template <class Word>
__global__ void __launch_bounds__(kThreads)
    copy_rows(const Word* rows, const int64_t* ids, int64_t row, int64_t words, Range range,
              Word* y) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < words; k += stride) {
    const int64_t id = ids[k / row];
    y[k] = range.has(id) ? rows[id * row + k % row] : Word{};
  }
}

// dw[v, strip] = sum of dy[i, strip] over ids[i] == v in the order of i: one warp for each row v
// and strip of columns. It looks at 32 ids at a time and sums in registers.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_occurrences(const int64_t* ids, int64_t n, const T* dy, int64_t cols, int64_t padding,
                    Range range, T* dw) {
  using A = Accumulator<T>;
  constexpr int kEach = kStrip / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t v = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int64_t first = int64_t{blockIdx.y} * kStrip;
  if (v >= range.extent) return;  // whole warps, and no barrier of the block follows
  A sum[kEach] = {};
  for (int64_t at = 0; at < n; at += kWarp) {
    const int64_t id = at + lane < n ? ids[at + lane] : padding;
    if (v == 0 && first == 0 && id != padding) range.has(id);  // each id is checked once
    for (unsigned found = __ballot_sync(kFullWarp, id == v && id != padding); found;
         found &= found - 1) {
      const T* row = dy + (at + __ffs(static_cast<int>(found)) - 1) * cols + first;
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (first + j * kWarp + lane < cols) sum[j] += static_cast<A>(row[j * kWarp + lane]);
    }
  }
  T* row = dw + v * cols + first;
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (first + j * kWarp + lane < cols) row[j * kWarp + lane] = T(sum[j]);
}

// y[o,k,i] = x[o, index[o,k,i], i] of [outer, extent, inner]
template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_elements(const T* x, const int64_t* index, int64_t numel, int64_t k, int64_t inner,
                    Range range, T* y) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < numel; at += stride) {
    const int64_t j = index[at], slab = at / (k * inner) * range.extent;
    y[at] = range.has(j) ? x[(slab + j) * inner + at % inner] : T{};
  }
}

// dx[o, index[o,k,i], i] += dy[o,k,i]: one thread for all that may add up in a column.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scatter_columns(const int64_t* index, const T* dy, int64_t columns, int64_t k, int64_t inner,
                    Range range, T* dx) {
  using A = Accumulator<T>;
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= columns) return;
  const int64_t o = c / inner, i = c % inner;
  for (int64_t r = 0; r < k; ++r) {
    const int64_t at = (o * k + r) * inner + i, j = index[at];
    if (!range.has(j)) continue;
    T& sum = dx[(o * range.extent + j) * inner + i];
    sum = T(static_cast<A>(sum) + static_cast<A>(dy[at]));
  }
}

}  // namespace

void embedding_forward(const CudaContext& ctx, ConstView weight, ConstView ids, View y) {
  const int64_t bytes = weight.cols() * size_of(weight.dtype);
  if (y.numel() == 0) return;
  for_widest_word({weight.data, y.data}, {bytes}, [&]<class Word>() {
    const int64_t row = bytes / static_cast<int64_t>(sizeof(Word)), words = ids.numel() * row;
    launch(copy_rows<Word>, {blocks_for(words, kThreads), kThreads}, ctx,
           static_cast<const Word*>(weight.data), ids.as<int64_t>(), row, words,
           range(ctx, "embedding", weight.shape[0]), static_cast<Word*>(y.data));
  });
}

void embedding_backward(const CudaContext& ctx, ConstView ids, ConstView dy, int64_t padding,
                        View dw) {
  const int64_t vocabulary = dw.shape[0], cols = dw.cols();
  if (dw.numel() == 0) return;
  const dim3 grid(one_block_each((vocabulary + kWarps - 1) / kWarps),
                  one_block_each((cols + kStrip - 1) / kStrip));
  for_float(dw.dtype, "embedding_backward", [&]<class T>() {
    launch(sum_occurrences<T>, {grid, kThreads}, ctx, ids.as<int64_t>(), ids.numel(), dy.as<T>(),
           cols, padding, range(ctx, "embedding", vocabulary), dw.as<T>());
  });
}

void gather(const CudaContext& ctx, ConstView x, ConstView index, View y) {
  const int64_t numel = y.numel();
  if (numel == 0) return;
  for_any(x.dtype, "gather", [&]<class T>() {
    launch(gather_elements<T>, {blocks_for(numel, kThreads), kThreads}, ctx, x.as<T>(),
           index.as<int64_t>(), numel, y.shape[1], y.shape[2], range(ctx, "gather", x.shape[1]),
           y.as<T>());
  });
}

void gather_backward(const CudaContext& ctx, ConstView index, ConstView dy, View dx) {
  const int64_t inner = dx.shape[2], columns = dx.shape[0] * inner;
  fill(ctx, dx, 0);
  if (dy.numel() == 0) return;
  for_float(dx.dtype, "gather_backward", [&]<class T>() {
    launch(scatter_columns<T>, {one_block_each((columns + kThreads - 1) / kThreads), kThreads}, ctx,
           index.as<int64_t>(), dy.as<T>(), columns, dy.shape[1], inner,
           range(ctx, "gather", dx.shape[1]), dx.as<T>());
  });
}

}  // namespace pinion::kernels::cuda
