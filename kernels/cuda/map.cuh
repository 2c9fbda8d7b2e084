// SPDX-License-Identifier: Apache-2.0
// y[i] = f(x[i]...) over flat arrays: the kernel behind every element-wise kernel. Elements go in
// packs of up to 16 bytes where all pointers reach a boundary together, and one by one elsewhere:
// before the first boundary, after the last, or throughout.
#pragma once

#include <algorithm>

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/formulas.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kMapThreads = 256;

// The widest element of a pack takes 16 bytes with its neighbours.
template <class... T>
inline constexpr int kPackElements = 16 / static_cast<int>(std::max({sizeof(T)...}));

template <class T, int N, class F, class... In>
__device__ __forceinline__ Pack<T, N> apply(const F& f, const Pack<In, N>&... x) {
  Pack<T, N> y;
#pragma unroll
  for (int j = 0; j < N; ++j) y.v[j] = f(x.v[j]...);
  return y;
}

// `packs` packs from element `head` on; the elements before and behind them singly. y may be one of
// the inputs: each element is read and written by one thread, in this order.
template <int N, class F, class T, class... In>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(int64_t n, int64_t head, int64_t packs, F f, T* y, const In*... x) {
  const int64_t first = int64_t{blockIdx.x} * kMapThreads + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * kMapThreads;
  for (int64_t p = first; p < packs; p += stride) {
    const int64_t i = head + p * N;
    store_pack<N>(y + i, apply<T, N>(f, load_pack<N>(x + i)...));
  }
  for (int64_t r = first; r < n - packs * N; r += stride) {
    const int64_t i = r < head ? r : r + packs * N;
    y[i] = f(x[i]...);
  }
}

template <int N, class T>
int64_t bytes_off(const T* p, int64_t elements = 0) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p + elements) % (N * sizeof(T)));
}

// f takes and gives elements as they are stored.
template <class F, class T, class... In>
void map_stored(const CudaContext& ctx, int64_t n, F f, T* y, const In*... x) {
  constexpr int N = kPackElements<T, In...>;
  if (n == 0) return;
  const auto size = static_cast<int64_t>(sizeof(T));
  int64_t head = (N * size - bytes_off<N>(y)) % (N * size) / size;
  const bool together = n >= head + N && ((bytes_off<N>(x, head) == 0) && ...);
  if (!together) head = 0;
  const int64_t packs = together ? (n - head) / N : 0, single = n - packs * N;
  launch(map_kernel<N, F, T, In...>,
         {blocks_for(packs > single ? packs : single, kMapThreads), kMapThreads}, ctx, n, head,
         packs, f, y, x...);
}

// Computes in the accumulator type and rounds to T.
template <class T, class F>
struct Rounded {
  F f;
  template <class... X>
  PINION_INLINE T operator()(X... x) const {
    return T(f(static_cast<Accumulator<X>>(x)...));
  }
};
template <class F, class T, class... In>
void map(const CudaContext& ctx, int64_t n, F f, T* y, const In*... x) {
  map_stored(ctx, n, Rounded<T, F>{f}, y, x...);
}

// One and two inputs of one floating dtype.
template <class F>
void map1(const CudaContext& ctx, const char* who, F f, const ConstView& x, const View& y) {
  for_float(y.dtype, who, [&]<class T>() { map(ctx, y.numel(), f, y.as<T>(), x.as<T>()); });
}
template <class F>
void map2(const CudaContext& ctx, const char* who, F f, const ConstView& a, const ConstView& b,
          const View& y) {
  for_float(y.dtype, who,
            [&]<class T>() { map(ctx, y.numel(), f, y.as<T>(), a.as<T>(), b.as<T>()); });
}

}  // namespace
}  // namespace pinion::kernels::cuda
