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

// The product on tensor cores; false, and nothing done, where rows are not on boundaries of 16
// bytes. T is BFloat16 or Half, Out is T or float.
template <class T, class Out>
bool multiply_on_tensor_cores(const CudaContext& ctx, const ProductShape& shape,
                              const Operand<T>& a, const Operand<T>& b, const Result<Out>& out);

}  // namespace pinion::kernels::cuda
