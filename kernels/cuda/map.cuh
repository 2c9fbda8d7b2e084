// SPDX-License-Identifier: Apache-2.0
// f(a[i], b[i], ...) for every i of flat arrays: the kernel behind every element-wise kernel and
// the optimizers. Elements go in packs of up to 16 bytes where all pointers reach a boundary
// together, and one by one elsewhere: before the first boundary, after the last, or throughout.
#pragma once

#include <algorithm>

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/formulas.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kMapThreads = 256;

// What a kernel does with an array: Read<T>, Write<T> or Update<T>. Each element is read and
// written by one thread, in this order, so that an array may be there more than once.
template <class T>
struct Read {
  using Element = T;
  const T* p;
  template <int N>
  __device__ __forceinline__ Pack<T, N> load(int64_t i) const {
    return load_pack<N>(p + i);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t, const Pack<T, N>&) const {}
};
template <class T>
struct Write {
  using Element = T;
  T* p;
  template <int N>
  __device__ __forceinline__ Pack<T, N> load(int64_t) const {
    return {};
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const Pack<T, N>& pack) const {
    store_pack<N>(p + i, pack);
  }
};
template <class T>
struct Update {
  using Element = T;
  T* p;
  template <int N>
  __device__ __forceinline__ Pack<T, N> load(int64_t i) const {
    return load_pack<N>(p + i);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const Pack<T, N>& pack) const {
    store_pack<N>(p + i, pack);
  }
};

// N elements from i on of every array, as its load() gives them: a pack, or what has v[N] like one.
template <int N, class F, class... Arrays>
__device__ __forceinline__ void each(const F& f, int64_t i, const Arrays&... arrays) {
  const auto run = [&](auto... packs) {
#pragma unroll
    for (int j = 0; j < N; ++j) f(packs.v[j]...);
    (arrays.template store<N>(i, packs), ...);
  };
  run(arrays.template load<N>(i)...);
}

// loop(f), unless an overload for F has more to do in every thread.
template <class F, class Loop>
__device__ __forceinline__ void over_elements(const F& f, const Loop& loop) {
  loop(f);
}

// `packs` packs from element `head` on; the elements before and behind them singly.
template <int N, class F, class... Arrays>
__global__ void __launch_bounds__(kMapThreads)
    elementwise(int64_t n, int64_t head, int64_t packs, F f, Arrays... arrays) {
  over_elements(f, [=](const auto& g) {
    const int64_t first = int64_t{blockIdx.x} * kMapThreads + threadIdx.x;
    const int64_t stride = int64_t{gridDim.x} * kMapThreads;
    for (int64_t p = first; p < packs; p += stride) each<N>(g, head + p * N, arrays...);
    for (int64_t r = first; r < n - packs * N; r += stride)
      each<1>(g, r < head ? r : r + packs * N, arrays...);
  });
}

template <int N, class T>
int64_t bytes_off(const T* p, int64_t elements = 0) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p + elements) % (N * sizeof(T)));
}
template <int N, class Array>
bool packs_begin_at(const Array& array, int64_t i) {
  return bytes_off<N>(array.p, i) == 0;
}

// f takes references to the elements, in the order of the arrays. The first array sets the
// boundary.
template <class F, class First, class... Rest>
void for_elements(const CudaContext& ctx, int64_t n, F f, First first, Rest... rest) {
  using T = typename First::Element;
  // The widest element of a pack takes 16 bytes with its neighbours.
  constexpr int N = 16 / static_cast<int>(std::max({sizeof(T), sizeof(typename Rest::Element)...}));
  if (n == 0) return;
  const auto size = static_cast<int64_t>(sizeof(T));
  int64_t head = (N * size - bytes_off<N>(first.p)) % (N * size) / size;
  const bool together =
      n >= head + N && packs_begin_at<N>(first, head) && (packs_begin_at<N>(rest, head) && ...);
  if (!together) head = 0;
  const int64_t packs = together ? (n - head) / N : 0, single = n - packs * N;
  launch(elementwise<N, F, First, Rest...>,
         {blocks_for(packs > single ? packs : single, kMapThreads), kMapThreads}, ctx, n, head,
         packs, f, first, rest...);
}

// y = f(x...) on elements as they are stored.
template <class F>
struct Stored {
  F f;
  template <class T, class... X>
  __device__ __forceinline__ void operator()(T& y, const X&... x) const {
    y = f(x...);
  }
};
template <class F, class T, class... In>
void map_stored(const CudaContext& ctx, int64_t n, F f, T* y, const In*... x) {
  for_elements(ctx, n, Stored<F>{f}, Write<T>{y}, Read<In>{x}...);
}

// Computes in the accumulator type and rounds to T.
template <class F>
struct Rounded {
  F f;
  template <class T, class... X>
  __device__ __forceinline__ void operator()(T& y, const X&... x) const {
    y = T(f(static_cast<Accumulator<X>>(x)...));
  }
};
template <class F, class T, class... In>
void map(const CudaContext& ctx, int64_t n, F f, T* y, const In*... x) {
  for_elements(ctx, n, Rounded<F>{f}, Write<T>{y}, Read<In>{x}...);
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
