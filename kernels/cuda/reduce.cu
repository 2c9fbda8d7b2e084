// SPDX-License-Identifier: Apache-2.0
// Sums over rows, columns and axes, and their spreading back. Every sum is taken in double and in
// an order that depends on the shape alone.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kRowThreads = 256;
constexpr int kSlices = 16;  // of one sum over rows

// y[o] = scale sum x[o,:], one block for each
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    sum_contiguous(const T* x, int64_t n, double scale, T* y) {
  const T* row = x + int64_t{blockIdx.x} * n;
  double own = 0;
  for (int64_t i = threadIdx.x; i < n; i += kRowThreads)
    own += static_cast<double>(static_cast<Accumulator<T>>(row[i]));
  const double total = block_sum<kRowThreads>(own);
  if (threadIdx.x == 0) y[blockIdx.x] = T(static_cast<Accumulator<T>>(total * scale));
}

struct SliceSums {
  double v[kSlices][kWarp];
};

// y[o,i] = scale sum over n of x[o,n,i]: a block has kWarp columns and kSlices slices of n.
template <class T>
__global__ void __launch_bounds__(kWarp* kSlices)
    sum_strided(const T* x, int64_t n, int64_t inner, int64_t column_blocks, double scale, T* y) {
  const int64_t o = blockIdx.x / column_blocks;
  const int64_t i = blockIdx.x % column_blocks * kWarp + threadIdx.x;
  SliceSums& sums = block_shared<SliceSums>();
  double own = 0;
  if (i < inner)
    for (int64_t r = threadIdx.y; r < n; r += kSlices)
      own += static_cast<double>(static_cast<Accumulator<T>>(x[(o * n + r) * inner + i]));
  sums.v[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.y != 0 || i >= inner) return;  // no barrier follows
  double total = 0;
  for (int s = 0; s < kSlices; ++s) total += sums.v[s][threadIdx.x];
  y[o * inner + i] = T(static_cast<Accumulator<T>>(total * scale));
}

template <class T>
void sum_over(const CudaContext& ctx, const T* x, int64_t outer, int64_t n, int64_t inner,
              double scale, T* y) {
  if (outer * inner == 0) return;
  if (inner == 1) {
    launch(sum_contiguous<T>, {one_block_each(outer), kRowThreads}, ctx, x, n, scale, y);
    return;
  }
  const int64_t blocks = (inner + kWarp - 1) / kWarp;
  launch(sum_strided<T>, {one_block_each(outer * blocks), dim3(kWarp, kSlices)}, ctx, x, n, inner,
         blocks, scale, y);
}

// y[o,n,i] = scale x[o,i]
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    expand(const T* x, int64_t numel, int64_t n, int64_t inner, Accumulator<T> scale, T* y) {
  const int64_t stride = int64_t{gridDim.x} * kRowThreads;
  for (int64_t k = int64_t{blockIdx.x} * kRowThreads + threadIdx.x; k < numel; k += stride) {
    const int64_t from = k / (n * inner) * inner + k % inner;
    y[k] = T(static_cast<Accumulator<T>>(x[from]) * scale);
  }
}

// y[r,c] = x[r,c] + b[c]
template <class T>
__global__ void __launch_bounds__(kRowThreads)
    add_columns(const T* x, const T* b, int64_t numel, int64_t cols, T* y) {
  using A = Accumulator<T>;
  const int64_t stride = int64_t{gridDim.x} * kRowThreads;
  for (int64_t k = int64_t{blockIdx.x} * kRowThreads + threadIdx.x; k < numel; k += stride)
    y[k] = T(static_cast<A>(x[k]) + static_cast<A>(b[k % cols]));
}

}  // namespace

void sum_axis(const CudaContext& ctx, ConstView x, double scale, View y) {
  for_float(x.dtype, "sum_axis", [&]<class T>() {
    sum_over(ctx, x.as<T>(), x.shape[0], x.shape[1], x.shape[2], scale, y.as<T>());
  });
}

void sum_rows(const CudaContext& ctx, ConstView x, View y) {
  for_float(x.dtype, "sum_rows",
            [&]<class T>() { sum_over(ctx, x.as<T>(), 1, x.rows(), x.cols(), 1, y.as<T>()); });
}

void expand_axis(const CudaContext& ctx, ConstView x, double scale, View y) {
  const int64_t numel = y.numel();
  if (numel == 0) return;
  for_float(y.dtype, "expand_axis", [&]<class T>() {
    launch(expand<T>, {blocks_for(numel, kRowThreads), kRowThreads}, ctx, x.as<T>(), numel,
           y.shape[1], y.shape[2], static_cast<Accumulator<T>>(scale), y.as<T>());
  });
}

void add_bias(const CudaContext& ctx, ConstView x, ConstView b, View y) {
  const int64_t numel = y.numel();
  if (numel == 0) return;
  for_float(y.dtype, "add_bias", [&]<class T>() {
    launch(add_columns<T>, {blocks_for(numel, kRowThreads), kRowThreads}, ctx, x.as<T>(), b.as<T>(),
           numel, y.cols(), y.as<T>());
  });
}

}  // namespace pinion::kernels::cuda
