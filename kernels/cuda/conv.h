// SPDX-License-Identifier: Apache-2.0
// 2-D convolutions of channels-last images by cuDNN, and by plain kernels of our own for what it
// has no engine for.
#pragma once

#include "pinion/kernels/cuda/context.cuh"

namespace pinion::kernels {

#ifndef PINION_CONV2D
#define PINION_CONV2D
// Of both spatial axes alike.
struct Conv2d {
  int64_t stride = 1, padding = 0, dilation = 1;
};
#endif

namespace cuda {

// x [N,H,W,C], w [K,R,S,C], y [N,Ho,Wo,K] of one dtype; sums are f32 (f64 for f64):
//   y[n,i,j,k] = sum over r,s,c of x[n, i stride - padding + r dilation, .. j .. s ..,c] w[k,r,s,c]
// f32 is multiplied as TF32 where set_tf32 allows it. Needs cuDNN but for f64: throws Error
// (device) where it is missing.
void conv2d_forward(const CudaContext& ctx, ConstView x, ConstView w, Conv2d c, View y);
void conv2d_backward_input(const CudaContext& ctx, ConstView w, ConstView dy, Conv2d c, View dx);
void conv2d_backward_weight(const CudaContext& ctx, ConstView x, ConstView dy, Conv2d c, View dw);

}  // namespace cuda
}  // namespace pinion::kernels
