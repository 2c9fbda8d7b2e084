// SPDX-License-Identifier: Apache-2.0
// What the matrix products share: operands of any strides, and what happens to a sum.
#pragma once

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/dispatch.h"
#include "pinion/kernels/formulas.h"

namespace pinion::kernels::cuda {

// Element (i, j) is data[i * row + j * column], of matrix `batch` elements further for each.
template <class T>
struct Operand {
  const T* data;
  int64_t row, column, batch;
};

// A call: a thread finishes as many as 64 sums in unrolled code, and ptxas takes many minutes over
// as many copies of these formulas.
#ifdef __CUDACC__
#define PINION_CALLED __noinline__
#else
#define PINION_CALLED
#endif
template <class A>
__device__ PINION_CALLED A activated(Activation act, A sum) {
  switch (act) {
    case Activation::relu: return formulas::Relu{}(sum);
    case Activation::gelu: return formulas::Gelu{}(sum);
    case Activation::gelu_tanh: return formulas::GeluTanh{}(sum);
    default: return sum;
  }
}
#undef PINION_CALLED

// y[i, j] = act(sum + bias[j] (+ y[i, j])), of matrices [m, n].
template <class Out>
struct Result {
  Out* y;
  bool accumulate;
  const Out* bias;  // [n] or null
  Activation act;
  Out* pre;  // what the activation sees, or null

  // Element `at` of all, in column j.
  template <class A>
  __device__ __forceinline__ void finish(int64_t at, int64_t j, A sum) const {
    if (bias) sum += static_cast<A>(bias[j]);
    if (accumulate) sum += static_cast<A>(y[at]);
    if (pre) pre[at] = Out(sum);
    y[at] = Out(act == Activation::none ? sum : activated(act, sum));
  }
};

struct ProductShape {
  int64_t batch, m, n, k;
};

// A strip of the result on its way from the fragments of a warp, where each lane has a little of
// many rows, to whole lines: neighbours in memory are stored together and fill its sectors.
struct Strip {
  static constexpr int kRows = 16, kColumns = 32;
  static constexpr int kStride = kColumns + 8;  // keeps the rows of a half warp in other banks
  alignas(16) float v[kRows * kStride];

  // A warp hands the strip at (i, j) of matrix `matrix` to out. fragment(c, e) is element e, in the
  // layout of mma.cuh, of the lane's part of columns 8c to 8c + 7.
  template <class Out, class F>
  __device__ __forceinline__ void finish(F fragment, const Result<Out>& out,
                                         const ProductShape& shape, int64_t matrix, int64_t i,
                                         int64_t j) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    __syncwarp();  // the strip before has been read
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c)
#pragma unroll
      for (int down = 0; down < 2; ++down)
        store_pack<2>(v + (g + down * 8) * kStride + c * 8 + t * 2,
                      Pack<float, 2>{fragment(c, down * 2), fragment(c, down * 2 + 1)});
    __syncwarp();
    if (j + lane < shape.n)
      for (int r = 0; r < kRows && i + r < shape.m; ++r)
        out.finish((matrix * shape.m + i + r) * shape.n + j + lane, j + lane,
                   v[r * kStride + lane]);
  }
};

// Whether copies of 16 bytes reach every line of a matrix [rows, columns]: the address, the
// distance of lines and of matrices, and the length are on their boundary.
template <class T>
bool is_aligned(const Operand<T>& x, int64_t rows, int64_t columns) {
  constexpr int64_t kChunk = 16 / sizeof(T);
  const bool along = x.column == 1;  // a row
  const int64_t apart = along ? x.row : x.column, length = along ? columns : rows;
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && apart % kChunk == 0 &&
         x.batch % kChunk == 0 && length % kChunk == 0;
}

// Products of 16-bit operands that are aligned so: T is BFloat16 or Half, Out is T or float. The
// first takes mma.sync, the second wgmma and TMA, which only devices of capability 9.0 have.
template <class T, class Out>
void multiply_by_warps(const CudaContext& ctx, const ProductShape& shape, const Operand<T>& a,
                       const Operand<T>& b, const Result<Out>& out);
template <class T, class Out>
void multiply_by_warp_groups(const CudaContext& ctx, const ProductShape& shape, const Operand<T>& a,
                             const Operand<T>& b, const Result<Out>& out);

// For the types of a file that defines one of them.
#define PINION_INSTANTIATE_PRODUCT(name)                  \
  PINION_INSTANTIATE_PRODUCT_OF(name, BFloat16, BFloat16) \
  PINION_INSTANTIATE_PRODUCT_OF(name, BFloat16, float)    \
  PINION_INSTANTIATE_PRODUCT_OF(name, Half, Half)         \
  PINION_INSTANTIATE_PRODUCT_OF(name, Half, float)
#define PINION_INSTANTIATE_PRODUCT_OF(name, T, Out)                              \
  template void name(const CudaContext&, const ProductShape&, const Operand<T>&, \
                     const Operand<T>&, const Result<Out>&);

}  // namespace pinion::kernels::cuda
