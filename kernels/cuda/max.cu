// SPDX-License-Identifier: Apache-2.0
// The largest element along an axis and where it is first reached. NaN is larger than everything.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int64_t kShortRow = 256;  // elements that one warp takes alone
constexpr int kColumnThreads = 256;

struct Least {
  __device__ __forceinline__ int64_t operator()(int64_t a, int64_t b) const {
    return a < b ? a : b;
  }
};

// One row of n each block: its largest element first, then the first place that holds it.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    max_of_rows(const T* x, int64_t n, T* y, int64_t* index) {
  using A = Accumulator<T>;
  x += int64_t{blockIdx.x} * n;
  A top = static_cast<A>(-INFINITY);
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    top = greater_or_nan(top, static_cast<A>(x[i]));
  top = block_max<kThreads>(top);
  int64_t at = n;
  for (int64_t i = threadIdx.x; i < n && at == n; i += kThreads) {
    const A v = x[i];
    if (v == top || (v != v && top != top)) at = i;
  }
  at = block_fold<kThreads>(at, Least{});
  if (threadIdx.x == 0) y[blockIdx.x] = x[at], index[blockIdx.x] = at;
}

// One column of [n, inner] each thread.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    max_of_columns(const T* x, int64_t columns, int64_t n, int64_t inner, T* y, int64_t* index) {
  using A = Accumulator<T>;
  const int64_t c = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
  if (c >= columns) return;
  const T* column = x + c / inner * n * inner + c % inner;
  A top = column[0];
  int64_t at = 0;
  for (int64_t r = 1; r < n && top == top; ++r) {
    const A v = column[r * inner];
    if (!(v <= top)) top = v, at = r;
  }
  y[c] = column[at * inner];
  index[c] = at;
}

}  // namespace

void max_axis(const CudaContext& ctx, ConstView x, View y, View index) {
  const int64_t n = x.shape[1], inner = x.shape[2], columns = x.shape[0] * inner;
  if (columns == 0) return;
  int64_t* const at = index.as<int64_t>();
  for_float(x.dtype, "max_axis", [&]<class T>() {
    if (inner > 1)
      launch(max_of_columns<T>,
             {one_block_each((columns + kColumnThreads - 1) / kColumnThreads), kColumnThreads}, ctx,
             x.as<T>(), columns, n, inner, y.as<T>(), at);
    else if (n <= kShortRow)
      launch(max_of_rows<T, kWarp>, {one_block_each(columns), kWarp}, ctx, x.as<T>(), n, y.as<T>(),
             at);
    else
      launch(max_of_rows<T, 256>, {one_block_each(columns), 256}, ctx, x.as<T>(), n, y.as<T>(), at);
  });
}

}  // namespace pinion::kernels::cuda
