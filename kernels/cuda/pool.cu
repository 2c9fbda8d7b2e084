// SPDX-License-Identifier: Apache-2.0
// Pooling of [N,H,W,C] images: a thread has a pack of channels of one element of the result.
// Gradients are gathered from the windows that cover an element, in their order.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;

struct Extents {
  int64_t n, h, w, c, p, q;  // x [n,h,w,c], y [n,p,q,c]
};

// The first channel and the element of [n, rows, cols] that pack k is of.
struct Element {
  int64_t n, i, j, c;
};
__device__ __forceinline__ Element element_of(int64_t k, int64_t packs, int channels, int64_t rows,
                                              int64_t cols) {
  const int64_t at = k / packs;
  return {at / (rows * cols), at / cols % rows, at % cols, k % packs * channels};
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    max_of_windows(const T* x, Extents e, Pool2d m, int64_t packs, T* y, uint8_t* index) {
  using A = Accumulator<T>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < packs; k += stride) {
    const Element at = element_of(k, e.c / N, N, e.p, e.q);
    const Range rows = covered_by(m, at.i, e.h, e.p), cols = covered_by(m, at.j, e.w, e.q);
    const int64_t top = at.i * m.stride - m.padding, left = at.j * m.stride - m.padding;
    Pack<T, N> best{};
    Pack<uint8_t, N> where{};
    bool first = true;
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t s = cols.begin; s < cols.end; ++s, first = false) {
        const Pack<T, N> in = load_pack<N>(x + ((at.n * e.h + r) * e.w + s) * e.c + at.c);
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const A v = in.v[j], top_so_far = best.v[j];
          if (!first && !(v > top_so_far || (v != v && top_so_far == top_so_far))) continue;
          best.v[j] = in.v[j];
          where.v[j] = static_cast<uint8_t>((r - top) * m.window + s - left);
        }
      }
    store_pack<N>(y + k * N, best);
    if (index) store_pack<N>(index + k * N, where);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    max_backward(const uint8_t* index, const T* dy, Extents e, Pool2d m, int64_t packs, T* dx) {
  using A = Accumulator<T>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < packs; k += stride) {
    const Element at = element_of(k, e.c / N, N, e.h, e.w);
    const Range rows = covering(m, at.i, e.h, e.p), cols = covering(m, at.j, e.w, e.q);
    A sum[N] = {};
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t s = cols.begin; s < cols.end; ++s) {
        const int64_t from = ((at.n * e.p + r) * e.q + s) * e.c + at.c;
        const Pack<uint8_t, N> where = load_pack<N>(index + from);
        const Pack<T, N> d = load_pack<N>(dy + from);
        const int64_t mine =
            (at.i - r * m.stride + m.padding) * m.window + (at.j - s * m.stride + m.padding);
#pragma unroll
        for (int j = 0; j < N; ++j)
          if (where.v[j] == mine) sum[j] += static_cast<A>(d.v[j]);
      }
    Pack<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.v[j] = T(sum[j]);
    store_pack<N>(dx + k * N, out);
  }
}

// What the sum of the window at (i, j) is multiplied by.
template <class A>
__device__ __forceinline__ A share_of(const Pool2d& m, const Extents& e, int64_t i, int64_t j) {
  if (m.window > 0) return A(1) / static_cast<A>(m.window * m.window);
  const Range rows = covered_by(m, i, e.h, e.p), cols = covered_by(m, j, e.w, e.q);
  return A(1) / static_cast<A>((rows.end - rows.begin) * (cols.end - cols.begin));
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    mean_of_windows(const T* x, Extents e, Pool2d m, int64_t packs, T* y) {
  using A = Accumulator<T>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < packs; k += stride) {
    const Element at = element_of(k, e.c / N, N, e.p, e.q);
    const Range rows = covered_by(m, at.i, e.h, e.p), cols = covered_by(m, at.j, e.w, e.q);
    const A share = share_of<A>(m, e, at.i, at.j);
    A sum[N] = {};
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t s = cols.begin; s < cols.end; ++s) {
        const Pack<T, N> in = load_pack<N>(x + ((at.n * e.h + r) * e.w + s) * e.c + at.c);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += static_cast<A>(in.v[j]);
      }
    Pack<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.v[j] = T(sum[j] * share);
    store_pack<N>(y + k * N, out);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    mean_backward(const T* dy, Extents e, Pool2d m, int64_t packs, T* dx) {
  using A = Accumulator<T>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < packs; k += stride) {
    const Element at = element_of(k, e.c / N, N, e.h, e.w);
    const Range rows = covering(m, at.i, e.h, e.p), cols = covering(m, at.j, e.w, e.q);
    A sum[N] = {};
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t s = cols.begin; s < cols.end; ++s) {
        const Pack<T, N> d = load_pack<N>(dy + ((at.n * e.p + r) * e.q + s) * e.c + at.c);
        const A share = share_of<A>(m, e, r, s);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] += share * static_cast<A>(d.v[j]);
      }
    Pack<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.v[j] = T(sum[j]);
    store_pack<N>(dx + k * N, out);
  }
}

// Calls f.template operator()<T, N>(extents, packs of `of`): N channels make 16 bytes where all
// pixels start on such a boundary (their indices on one of N bytes), else N is 1.
template <class F>
void for_packs(const char* who, const ConstView& x, const ConstView& y, const ConstView& index,
               const ConstView& of, F f) {
  if (of.numel() == 0) return;
  const Extents e{x.shape[0], x.shape[1], x.shape[2], x.shape[3], y.shape[1], y.shape[2]};
  for_float(x.dtype, who, [&]<class T>() {
    constexpr int N = 16 / static_cast<int>(sizeof(T));
    const auto off = [](const ConstView& v, uintptr_t bytes) {
      return reinterpret_cast<uintptr_t>(v.data) % bytes;
    };
    if (e.c % N == 0 && off(x, 16) + off(y, 16) + off(index, N) == 0)
      f.template operator()<T, N>(e, of.numel() / N);
    else
      f.template operator()<T, 1>(e, of.numel());
  });
}

LaunchShape threads_for(int64_t packs) { return {blocks_for(packs, kThreads), kThreads}; }

}  // namespace

void max_pool_forward(const CudaContext& ctx, ConstView x, Pool2d p, View y, View index) {
  for_packs("max_pool_forward", x, y, index, y, [&]<class T, int N>(Extents e, int64_t packs) {
    launch(max_of_windows<T, N>, threads_for(packs), ctx, x.as<T>(), e, p, packs, y.as<T>(),
           index ? index.as<uint8_t>() : nullptr);
  });
}

void max_pool_backward(const CudaContext& ctx, ConstView index, ConstView dy, Pool2d p, View dx) {
  for_packs("max_pool_backward", dx, dy, index, dx, [&]<class T, int N>(Extents e, int64_t packs) {
    launch(max_backward<T, N>, threads_for(packs), ctx, index.as<uint8_t>(), dy.as<T>(), e, p,
           packs, dx.as<T>());
  });
}

void avg_pool_forward(const CudaContext& ctx, ConstView x, Pool2d p, View y) {
  for_packs("avg_pool_forward", x, y, {}, y, [&]<class T, int N>(Extents e, int64_t packs) {
    launch(mean_of_windows<T, N>, threads_for(packs), ctx, x.as<T>(), e, p, packs, y.as<T>());
  });
}

void avg_pool_backward(const CudaContext& ctx, ConstView dy, Pool2d p, View dx) {
  for_packs("avg_pool_backward", dx, dy, {}, dx, [&]<class T, int N>(Extents e, int64_t packs) {
    launch(mean_backward<T, N>, threads_for(packs), ctx, dy.as<T>(), e, p, packs, dx.as<T>());
  });
}

}  // namespace pinion::kernels::cuda
