// SPDX-License-Identifier: Apache-2.0
// Differentiable operations on images [N,H,W,C]: as in nn/ops.h, channels last.
#pragma once

#include <functional>

#include "pinion/kernels/image.h"
#include "pinion/runtime/tensor.h"

namespace pinion::nn {

// x [N,H,W,C], w [K,R,S,C], b [K] or undefined -> [N,P,Q,K], where P is
// (H + 2 padding - dilation (R - 1) - 1) / stride + 1.
Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& b = {},
              const kernels::Conv2d& window = {});

struct BatchNormOptions {
  bool training = true;   // by the statistics of x; else by the running ones
  int64_t groups = 1;     // training: each N / groups consecutive images by themselves
  double eps = 1e-5;      // added to the variance
  double momentum = 0.1;  // running += momentum (batch - running), group after group
  Tensor batches;         // i64 [], on x's device: training adds `groups`; undefined = not counted
  Tensor residual;        // x's shape: added to the normalised images; undefined = nothing
  bool relu = false;      // of the sum
  // Training on a part of a batch: adds its argument [n] up, in place, over all who hold a part, on
  // every one of them at the same place of the forward and the backward pass. Statistics are then
  // of the whole batch, of each group by itself; the gradients of gamma and beta stay this part's.
  std::function<void(Tensor)> sum_over_parts;
};
// relu((x - mean) / sqrt(variance + eps) gamma + beta + residual) per channel: gamma [C], beta [C],
// of x's type or, over 16-bit x, f32. Training writes into running_mean [C] and running_var [C]
// (the unbiased variance) unless they are undefined; they are of any floating type.
Tensor batch_norm2d(const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor running_mean,
                    Tensor running_var, const BatchNormOptions& options = {});

// [N,H,W,C] -> [N,P,Q,C]; windows of at most 16 by 16 for the maximum; the gradient goes to the
// first maximum. Padding is never a maximum, and counts as zeros in an average.
Tensor max_pool2d(const Tensor& x, const kernels::Pool2d& window);
Tensor avg_pool2d(const Tensor& x, const kernels::Pool2d& window);
// [N,H,W,C] -> [N,height,width,C]: averages of equal parts of the image, as equal as they can be.
Tensor adaptive_avg_pool2d(const Tensor& x, int64_t height, int64_t width);
Tensor global_avg_pool2d(const Tensor& x);  // [N,H,W,C] -> [N,C]

}  // namespace pinion::nn
