// SPDX-License-Identifier: Apache-2.0
// Large matrix products by cuBLASLt, where it is there. Our own kernels compute the same products,
// so a missing library costs speed and is no error: product_library() says what was found.
#pragma once

#include <string>

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/dispatch.h"

namespace pinion::kernels::cuda {

// y[batch, m, n] = act(op(a) op(b) + bias[n]) (+ y), of dense row-major matrices; op is the
// transpose where its flag is set. y is of the operands' dtype, or f32. Not both act and
// accumulate.
struct LibraryProduct {
  int64_t batch, m, n, k;
  bool transpose_a, transpose_b, accumulate;
  ConstView a, b;
  View y;
  ConstView bias;  // or empty
  Activation act = Activation::none;
  View pre;  // what act sees, where act is a form of GELU; or empty
};

// False, and nothing done, for what our own kernels should do: a product below 64 in an extent,
// f64, one that cuBLASLt has no algorithm for, or all of them when it is missing or switched off by
// PINION_CUBLASLT=0. Its sums are f32, in an order that the shape, the device and the version of
// the library fix. Throws Error (device) when the library fails.
bool multiply_by_library(const CudaContext& ctx, const LibraryProduct& p);

// "cuBLASLt 13.1.0 (path)", or why there is none. Opens it.
const std::string& product_library();

// Products by our own kernels only in the calling thread, while it lives: for tests of them.
class OwnProductsOnly {
 public:
  OwnProductsOnly();
  ~OwnProductsOnly();
  OwnProductsOnly(const OwnProductsOnly&) = delete;
  OwnProductsOnly& operator=(const OwnProductsOnly&) = delete;

 private:
  bool before_;
};

}  // namespace pinion::kernels::cuda
