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
    switch (act) {
      case Activation::relu: sum = formulas::Relu{}(sum); break;
      case Activation::gelu: sum = formulas::Gelu{}(sum); break;
      case Activation::gelu_tanh: sum = formulas::GeluTanh{}(sum); break;
      case Activation::none: break;
    }
    y[at] = Out(sum);
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
