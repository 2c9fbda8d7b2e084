// SPDX-License-Identifier: Apache-2.0
// Means and mean squares weighted by the size of each part; everything small, in f64, on x's
// device.
#include "pinion/nn/shared_statistics.h"

#include <limits>

#include "pinion/kernels/kernels.h"

namespace pinion::nn {

SharedStatistics share_statistics(const Tensor& x, const kernels::BatchNorm& norm,
                                  const BatchNormOptions& options) {
  const int64_t channels = norm.groups * x.size(3);  // of all groups together
  const double n = channels > 0 ? static_cast<double>(x.numel() / channels) : 0;
  const DType type = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const auto make = [&](const Shape& shape, DType t) { return Tensor(shape, t, x.device()); };
  SharedStatistics s;
  s.mean = make({norm.groups, x.size(3)}, type), s.var = make({norm.groups, x.size(3)}, type);
  // Sums of x, sums of x^2, and n. The mean's rounding cancels: both come from the rounded mean.
  Tensor sums = Tensor::zeros({2 * channels + 1}, DType::f64, x.device());
  Tensor mean = sums.rows(0, channels), squares = sums.rows(channels, 2 * channels);
  Tensor total = sums.rows(2 * channels, 2 * channels + 1);
  Tensor square = make({channels}, DType::f64);
  Tensor batches = options.batches;
  on(x.device(), [&](auto& ctx) {
    if (x.numel() == 0) return;
    kernels::batch_norm_statistics(ctx, x, norm, s.mean.mut(), s.var.mut(), View(), View(),
                                   batches.defined() ? batches.mut() : View());
    kernels::cast(ctx, s.mean.alias({channels}), mean.mut());
    kernels::cast(ctx, s.var.alias({channels}), squares.mut());
    kernels::multiply(ctx, mean, mean, square.mut());
    kernels::add(ctx, squares, square, squares.mut());
    kernels::fill(ctx, total.mut(), 1);
    kernels::affine(ctx, sums, n, 0, sums.mut());
  });
  options.sum_over_parts(sums);
  Tensor one = Tensor::full({1}, 1, DType::f64, x.device()), inverse = Tensor::like(one);
  Tensor least = Tensor::like(one), bessel = Tensor::like(one), share = Tensor::like(one);
  s.unbiased = make({channels}, DType::f64);
  s.share = make({1}, type);
  on(x.device(), [&](auto& ctx) {
    kernels::divide(ctx, one, total, inverse.mut());
    kernels::scale_by(ctx, mean, inverse, mean.mut());
    kernels::scale_by(ctx, squares, inverse, squares.mut());
    kernels::multiply(ctx, mean, mean, square.mut());
    kernels::subtract(ctx, squares, square, squares.mut());  // now the biased variance
    kernels::clamp(ctx, squares, 0, std::numeric_limits<double>::infinity(), squares.mut());
    kernels::affine(ctx, total, 1, -1, least.mut());
    kernels::divide(ctx, total, least, bessel.mut());
    kernels::scale_by(ctx, squares, bessel, s.unbiased.mut());
    kernels::affine(ctx, inverse, n, 0, share.mut());
    kernels::cast(ctx, share, s.share.mut());
    kernels::cast(ctx, mean, s.mean.alias({channels}).mut());
    kernels::cast(ctx, squares, s.var.alias({channels}).mut());
  });
  s.mean64 = mean;
  return s;
}

void follow_statistics(const SharedStatistics& batch, double momentum, Tensor running_mean,
                       Tensor running_var) {
  const auto follow = [&](Tensor& running, const Tensor& values) {
    if (!running.defined()) return;
    const int64_t channels = running.numel();
    Tensor old(running.shape(), DType::f64, running.device()), part = Tensor::like(old);
    on(running.device(), [&](auto& ctx) {
      kernels::cast(ctx, running, old.mut());
      for (int64_t at = 0; at < values.numel(); at += channels) {
        kernels::affine(ctx, old, 1 - momentum, 0, old.mut());
        kernels::affine(ctx, values.rows(at, at + channels), momentum, 0, part.mut());
        kernels::add(ctx, old, part, old.mut());
      }
      kernels::cast(ctx, old, running.mut());
    });
  };
  follow(running_mean, batch.mean64);
  follow(running_var, batch.unbiased);
}

}  // namespace pinion::nn
