// SPDX-License-Identifier: Apache-2.0
// Constructors and calls of the layers over images.
#include "pinion/nn/layers_image.h"

#include <cmath>

#include "pinion/nn/init.h"

namespace pinion::nn {
Conv2d::Conv2d(int64_t in, int64_t out, int64_t window, const kernels::Conv2d& how, bool with_bias)
    : move(how) {
  PINION_CHECK(in > 0 && out > 0 && window > 0,
               "Conv2d: expected in > 0, out > 0 and window > 0, got in ", in, ", out ", out,
               ", window ", window);
  PINION_CHECK(move.stride > 0 && move.padding >= 0 && move.dilation > 0,
               "Conv2d: expected stride > 0, padding >= 0 and dilation > 0, got stride ",
               move.stride, ", padding ", move.padding, ", dilation ", move.dilation);
  weight = new_parameter({out, window, window, in});
  Tensor as_torch = weight.alias({out, in, window, window});  // the shape that fans are read from
  init::kaiming_uniform(as_torch, std::sqrt(5.0));            // the bound is 1 / sqrt(fan in)
  if (!with_bias) return;
  bias = new_parameter({out});
  const double bound = 1 / std::sqrt(static_cast<double>(in * window * window));
  init::uniform(bias, -bound, bound);
}

void Conv2d::fields(Fields& f) {
  f.filters("weight", weight);
  f("bias", bias);
}

BatchNorm2d::BatchNorm2d(int64_t channels, double epsilon, double share)
    : eps(epsilon), momentum(share) {
  PINION_CHECK(channels > 0, "BatchNorm2d: expected channels > 0, got ", channels);
  PINION_CHECK(std::isfinite(eps) && eps >= 0, "BatchNorm2d: expected eps >= 0, got ", eps);
  PINION_CHECK(momentum >= 0 && momentum <= 1, "BatchNorm2d: expected momentum in [0, 1], got ",
               momentum);
  weight = new_parameter({channels});
  bias = new_parameter({channels});
  init::ones(weight);
  init::zeros(bias);
  MemoryTagScope tag(MemoryTag::parameters);
  running_mean = Tensor::zeros({channels});
  running_var = Tensor::full({channels}, 1);
  num_batches_tracked = Tensor::zeros({}, DType::i64);
}

Tensor BatchNorm2d::operator()(const Tensor& x, BatchNormOptions options) const {
  options.training = training();
  options.eps = eps;
  options.momentum = momentum;
  options.batches = num_batches_tracked;
  if (!options.sum_over_parts) options.sum_over_parts = sum_over_parts;
  return batch_norm2d(x, weight, bias, running_mean, running_var, options);
}

void BatchNorm2d::fields(Fields& f) {
  f("weight", weight);
  f("bias", bias);
  f.buffer("running_mean", running_mean);
  f.buffer("running_var", running_var);
  f.buffer("num_batches_tracked", num_batches_tracked);
}

}  // namespace pinion::nn
