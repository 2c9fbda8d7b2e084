// SPDX-License-Identifier: Apache-2.0
// 2-D convolutions of channels-last images by cuDNN, and by plain kernels of our own for f64, for
// what cuDNN has no engine for, and for sums over nothing. f32 is multiplied as TF32 where
// set_tf32() allows it. Throws Error (device) where cuDNN is missing.
#include "pinion/kernels/cuda/conv_plan.h"
#include "pinion/kernels/cuda/tf32.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

// What an address is a multiple of, up to the 16 bytes of the longest access.
int64_t boundary(const void* p) {
  const auto at = reinterpret_cast<uintptr_t>(p) | 16;
  return static_cast<int64_t>(at & -at);
}

// Any of the three may be the one that is written.
void convolve(const CudaContext& ctx, ConvPass pass, ConstView x, ConstView w, ConstView y,
              Conv2d c) {
  ConvProblem p{pass,       x.dtype,    x.shape[0], x.shape[1], x.shape[2], x.shape[3],
                w.shape[0], w.shape[1], w.shape[2], y.shape[1], y.shape[2], c};
  const ConvData d{
      {const_cast<void*>(x.data), const_cast<void*>(w.data), const_cast<void*>(y.data)}};
  p.tf32 = p.dtype == DType::f32 && tf32().conv;
  for (int i = 0; i < 3; ++i) p.boundary[i] = boundary(d.data[i]);
  const ConstView& written = pass == ConvPass::forward          ? y
                             : pass == ConvPass::backward_input ? x
                                                                : w;
  if (written.numel() == 0) return;
  // Sums over nothing are our own kernels' too: no library takes an extent of 0.
  const bool nothing = x.numel() == 0 || w.numel() == 0 || y.numel() == 0;
  if (!nothing && p.dtype != DType::f64 && convolve_by_library(ctx, p, d)) return;
  convolve_directly(ctx, p, d);
}

}  // namespace

void conv2d_forward(const CudaContext& ctx, ConstView x, ConstView w, Conv2d c, View y) {
  convolve(ctx, ConvPass::forward, x, w, y, c);
}

void conv2d_backward_input(const CudaContext& ctx, ConstView w, ConstView dy, Conv2d c, View dx) {
  convolve(ctx, ConvPass::backward_input, dx, w, dy, c);
}

void conv2d_backward_weight(const CudaContext& ctx, ConstView x, ConstView dy, Conv2d c, View dw) {
  convolve(ctx, ConvPass::backward_weight, x, dw, dy, c);
}

}  // namespace pinion::kernels::cuda
