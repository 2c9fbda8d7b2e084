// SPDX-License-Identifier: Apache-2.0
// What the kernels that give a block (a warp, where rows are short) to each row share: its threads
// take packs of up to 16 bytes in turn where every row begins on such a boundary, and elements
// otherwise. The packs decide the order of a thread's sums, so that a row's bits depend on its
// length and alignment and on nothing else.
#pragma once

#include "pinion/kernels/cuda/map.cuh"

namespace pinion::kernels::cuda {
namespace {

constexpr int kRowThreads = 256;  // of the block that takes a row which is not short

// An array that may be missing (null): zeros are read then, and nothing is written.
template <class Array>
struct IfThere : Array {
  template <int N>
  __device__ __forceinline__ Pack<typename Array::Element, N> load(int64_t i) const {
    if (!this->p) return {};
    return Array::template load<N>(i);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i,
                                        const Pack<typename Array::Element, N>& pack) const {
    if (this->p) Array::template store<N>(i, pack);
  }
};
template <class T>
using ReadIf = IfThere<Read<T>>;
template <class T>
using WriteIf = IfThere<Write<T>>;

// f(elements...) for every element of arrays of n that belongs to the calling thread.
template <int N, int kThreads, class F, class... Arrays>
__device__ __forceinline__ void over_row(int64_t n, const F& f, const Arrays&... arrays) {
  for (int64_t i = int64_t{threadIdx.x} * N; i < n; i += kThreads * N) each<N>(f, i, arrays...);
}

// Whether a warp is enough for a row of n.
template <int N>
constexpr bool is_short_row(int64_t n) {
  return n <= 256 * (N > 1 ? 4 : 1);
}

// Launches the kernel for a warp, or the one for kRowThreads, on each of so many rows of n.
template <int N, class... P, class... A>
void launch_rows(const CudaContext& ctx, int64_t rows, int64_t n, void (*by_warp)(P...),
                 void (*by_block)(P...), A&&... arguments) {
  const bool is_short = is_short_row<N>(n);
  launch(is_short ? by_warp : by_block, {one_block_each(rows), is_short ? kWarp : kRowThreads}, ctx,
         static_cast<A&&>(arguments)...);
}

// f.template operator()<N>() with the elements of a pack: rows of n of all arrays (null: none)
// begin on their boundaries, or N is 1. Rows of f64 are not worth another kernel.
template <class T, class F, class... Pointers>
void for_row_packs(int64_t n, F f, const Pointers*... p) {
  constexpr int N = sizeof(T) > 4 ? 1 : 16 / static_cast<int>(sizeof(T));
  if constexpr (N > 1)
    if (n % N == 0 && ((bytes_off<N>(p) == 0) && ...)) return f.template operator()<N>();
  f.template operator()<1>();
}

}  // namespace
}  // namespace pinion::kernels::cuda
