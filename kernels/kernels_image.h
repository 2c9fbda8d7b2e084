// SPDX-License-Identifier: Apache-2.0
// The kernels over images, as kernels.h lists the others. Images are dense [N,H,W,C], filters
// [K,R,S,C]; f32, f64, bf16 and f16.
#pragma once

#include "pinion/kernels/image.h"
#include "pinion/kernels/kernels.h"

#define PINION_KERNEL(name, ...)              \
  namespace rung_scalar {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx2 {                       \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx512 {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace cuda {                            \
  void name(const CudaContext&, __VA_ARGS__); \
  }                                           \
  inline constexpr Kernel<void(__VA_ARGS__)> name{PINION_RUNGS(name) PINION_CUDA_ENTRY(name)};

namespace pinion::kernels {

// clang-format off

// --- convolution: x [N,H,W,C], w [K,R,S,C], y [N,P,Q,K] -----------------------------------------
// y[n,p,q,k] = sum over r,s,c of x[n, p stride - padding + r dilation, .., c] w[k,r,s,c]
PINION_KERNEL(conv2d_forward, ConstView x, ConstView w, Conv2d c, View y)
PINION_KERNEL(conv2d_backward_input, ConstView w, ConstView dy, Conv2d c, View dx)
PINION_KERNEL(conv2d_backward_weight, ConstView x, ConstView dy, Conv2d c, View dw)

// --- batch normalisation (Ioffe & Szegedy 2015) -------------------------------------------------
// gamma, beta, means, variances and sums are f32 (f64 over f64); g = groups.
// mean[g,c] and var[g,c] (biased) over the images and pixels of a group. Where they are not empty,
// running_mean[c] and running_var[c] follow, group after group: r += momentum (batch - r), with the
// unbiased variance. batches[] (i64), unless it is empty, gains the number of groups.
PINION_KERNEL(batch_norm_statistics, ConstView x, BatchNorm b, View mean, View var,
              View running_mean, View running_var, View batches)
// y = act((x - mean) gamma / sqrt(var + eps) + beta (+ residual)); mean and var [g,c]
PINION_KERNEL(batch_norm_apply, ConstView x, ConstView mean, ConstView var, ConstView gamma,
              ConstView beta, ConstView residual, BatchNorm b, View y)
// d = dy, with relu dy where y > 0 and else 0; sums[0,g,c] = sum of d, sums[1,g,c] = sum of d xhat;
// dgamma[c] and dbeta[c] are their sums over groups and may be empty. y is read with relu only.
PINION_KERNEL(batch_norm_backward_sums, ConstView x, ConstView mean, ConstView var, ConstView y,
              ConstView dy, BatchNorm b, View sums, View dgamma, View dbeta)
// dx = gamma / sqrt(var + eps) (d - (sums[0] + xhat sums[1]) / n), n elements a group and channel;
// without sums, as when mean and var are constants, dx = gamma / sqrt(var + eps) d. dresidual = d.
// Either may be empty.
PINION_KERNEL(batch_norm_backward, ConstView x, ConstView mean, ConstView var, ConstView gamma,
              ConstView y, ConstView dy, ConstView sums, BatchNorm b, View dx, View dresidual)

// --- pooling: x [N,H,W,C], y [N,P,Q,C] ----------------------------------------------------------
// y = max over the window; index (u8) = r window + s of the first that reaches it, or is empty;
// NaN wins. Window 16 at most.
PINION_KERNEL(max_pool_forward, ConstView x, Pool2d p, View y, View index)
PINION_KERNEL(max_pool_backward, ConstView index, ConstView dy, Pool2d p, View dx)
// y = mean over the window, padding counted as zeros; adaptive windows have none.
PINION_KERNEL(avg_pool_forward, ConstView x, Pool2d p, View y)
PINION_KERNEL(avg_pool_backward, ConstView dy, Pool2d p, View dx)

// --- preparation --------------------------------------------------------------------------------
// y[n,i,j,:3] = scaled x[n, top + i, left + j', :], j' = flip ? w - 1 - j : j; other channels 0.
// x (u8) [N,H,W,3], y [N,h,w,3 or more]; place (i32) [N,3] = top, left, flip of each image, which
// the caller has checked.
PINION_KERNEL(prepare_images, ConstView x, ConstView place, ColourScale s, View y)

// clang-format on

}  // namespace pinion::kernels

#undef PINION_KERNEL
