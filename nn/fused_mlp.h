// SPDX-License-Identifier: Apache-2.0
// FusedMlp: an Mlp whose training step is one kernel: forward, loss, backward and weight gradients
// in one pass over row blocks that stay in cache. Same parameters, names and results as nn::Mlp,
// for any batch size; every width but the first is at most 128.
#pragma once

#include <vector>

#include "pinion/nn/layers.h"

namespace pinion::nn {

struct FusedMlp : Mlp {
  explicit FusedMlp(const std::vector<int64_t>& widths, Activation activation = Activation::relu);

  // x [N, widths.front()] -> [N, widths.back()] in one kernel when no gradient is recorded, else
  // layer by layer.
  Tensor operator()(const Tensor& x) const;

  // Forward, loss and all gradients at once; the result [] is differentiable like any loss. Equal
  // to nn::mse_loss((*this)(x), target): target f32 [N, widths.back()]; and to
  // nn::cross_entropy((*this)(x), target): target i64 [N], ids in [0, widths.back()).
  // Under Autocast(bf16), or with bf16 x and weights, activations are rounded to bf16 between
  // layers while sums, losses and weight gradients stay f32. x may require a gradient.
  Tensor mse_loss(const Tensor& x, const Tensor& target) const;
  Tensor cross_entropy(const Tensor& x, const Tensor& target) const;
};

}  // namespace pinion::nn
