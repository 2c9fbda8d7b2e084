// SPDX-License-Identifier: Apache-2.0
// Layer normalisation in its other forms. Declared as in ops.h.
#pragma once

#include "pinion/kernels/kernels_norm.h"
#include "pinion/nn/ops.h"

namespace pinion::nn {

// Over the last dimension, x [..,c], gamma [c], beta [c]: (x - mean) / sqrt(variance + eps) gamma +
// beta, or with unbiased_std (x - mean) / (std + eps) gamma + beta, std over c - 1; c >= 2 then.
Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                  LayerNormForm form);
// The same with gamma + delta_gamma and beta + delta_beta, both deltas of x's shape: what a memory
// conditions the normalisation on (Chen et al. 2020, section 2.3).
Tensor conditional_layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                              const Tensor& delta_gamma, const Tensor& delta_beta,
                              double eps = 1e-6, LayerNormForm form = LayerNormForm::unbiased_std);

}  // namespace pinion::nn
