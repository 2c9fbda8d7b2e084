// SPDX-License-Identifier: Apache-2.0
// The largest elements of rows, in falling order. A thread looks for the best of its share of a
// row, the block for the best of these, and only the thread that had it looks again.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int64_t kShortRow = 256;  // elements that one warp takes alone

struct Least {
  __device__ __forceinline__ int64_t operator()(int64_t a, int64_t b) const {
    return a < b ? a : b;
  }
};

template <class A>
struct Place {
  A v;
  int64_t at;

  // NaN before everything, then by falling value, then by rising index.
  __device__ __forceinline__ bool before(const Place& other) const {
    const bool nan = v != v, other_nan = other.v != other.v;
    if (nan != other_nan) return nan;
    if (!nan && v != other.v) return v > other.v;
    return at < other.at;
  }
};

// One row of n each block.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    top_of_rows(const T* x, int64_t n, int64_t k, T* y, int64_t* index) {
  using A = Accumulator<T>;
  constexpr int64_t kNone = INT64_MAX;
  x += int64_t{blockIdx.x} * n, y += int64_t{blockIdx.x} * k, index += int64_t{blockIdx.x} * k;
  // The best of the thread's elements that come after the last one taken.
  Place<A> own{static_cast<A>(-INFINITY), kNone}, last = own;
  const auto look = [&](bool all) {
    own = {static_cast<A>(-INFINITY), kNone};
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const Place<A> here{static_cast<A>(x[i]), i};
      if ((all || last.before(here)) && here.before(own)) own = here;
    }
  };
  look(true);
  for (int64_t r = 0; r < k; ++r) {
    const A top = block_max<kThreads>(own.v);
    const bool is_top = own.v == top || (own.v != own.v && top != top);
    last = {top, block_fold<kThreads>(is_top ? own.at : kNone, Least{})};
    if (threadIdx.x == 0) y[r] = x[last.at], index[r] = last.at;
    if (last.at % kThreads == threadIdx.x) look(false);
  }
}

}  // namespace

void top_k(const CudaContext& ctx, ConstView x, View y, View index) {
  const int64_t rows = x.rows(), n = x.cols(), k = y.cols();
  if (rows == 0 || k == 0) return;
  for_float(x.dtype, "top_k", [&]<class T>() {
    const auto run = [&](auto kernel, unsigned threads) {
      launch(kernel, {one_block_each(rows), threads}, ctx, x.as<T>(), n, k, y.as<T>(),
             index.as<int64_t>());
    };
    n <= kShortRow ? run(top_of_rows<T, kWarp>, kWarp) : run(top_of_rows<T, 256>, 256);
  });
}

}  // namespace pinion::kernels::cuda
