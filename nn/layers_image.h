// SPDX-License-Identifier: Apache-2.0
// Layers over images [N,H,W,C]: parameters and buffers with PyTorch's names and initial values.
#pragma once

#include "pinion/nn/module.h"
#include "pinion/nn/ops_image.h"

namespace pinion::nn {

// x [N,H,W,in] -> [N,P,Q,out]. Weight and bias start uniform in +-1/sqrt(in window^2).
struct Conv2d : Module {
  Tensor weight;  // [out, window, window, in]
  Tensor bias;    // [out], or undefined
  kernels::Conv2d move;

  Conv2d(int64_t in, int64_t out, int64_t window, const kernels::Conv2d& move = {},
         bool with_bias = true);
  Tensor operator()(const Tensor& x) const { return conv2d(x, weight, bias, move); }
  void fields(Fields& f) override;
};

// Normalises channels: in training mode by the statistics of the batch, which the running ones
// follow, else by those. x [N,H,W,channels] -> the same.
struct BatchNorm2d : Module {
  Tensor weight;               // [channels], ones at first
  Tensor bias;                 // [channels], zeros at first
  Tensor running_mean;         // [channels], zeros at first
  Tensor running_var;          // [channels], ones at first
  Tensor num_batches_tracked;  // i64 []
  double eps, momentum;
  std::function<void(Tensor)> sum_over_parts;  // as in BatchNormOptions; see SyncBatchNorm in dist

  explicit BatchNorm2d(int64_t channels, double eps = 1e-5, double momentum = 0.1);
  // Of the options, groups, residual and relu count.
  Tensor operator()(const Tensor& x, BatchNormOptions options = {}) const;
  void fields(Fields& f) override;
};

}  // namespace pinion::nn
