// SPDX-License-Identifier: Apache-2.0
// Reductions over one dimension or over everything.
#include <utility>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

// [outer, n, inner] without the middle.
Shape ends(const Shape& folded) { return {folded[0], folded[2]}; }

// y = scale times the sum of x over the middle of [outer, n, inner] = `folded`.
Tensor scaled_sum(const char* op, const Tensor& x, const Shape& folded, const Shape& y_shape,
                  double scale) {
  Tensor y(y_shape, x.dtype(), x.device());
  on(x.device(), [&](auto& ctx) {
    kernels::sum_axis(ctx, with_shape(x.view(), folded), scale, with_shape(y.mut(), ends(folded)));
  });
  return record(op, std::move(y), {&x},
                [to_x = Input(x), shape = x.shape(), folded, scale](const Tensor& dy) -> Tensors {
                  Tensor dx = to_x.gradient(shape, dy);
                  on(dy.device(), [&](auto& ctx) {
                    kernels::expand_axis(ctx, with_shape(dy.view(), ends(folded)), scale,
                                         with_shape(dx.mut(), folded));
                  });
                  return {std::move(dx)};
                });
}

// The largest values of x over dimension `dim`, and where they stand (i64).
std::pair<Tensor, Tensor> maxima(const char* op, const Tensor& x, int dim) {
  PINION_CHECK(x.size(dim) >= 1, op, ": expected at least one element in dimension ", dim, ", got ",
               x.shape());
  const Shape shape = x.shape().without(dim);
  Tensor y(shape, x.dtype(), x.device()), index(shape, DType::i64, x.device());
  const ConstView folded = fold(x.view(), dim);
  const Shape kept = ends(folded.shape);
  on(x.device(), [&](auto& ctx) {
    kernels::max_axis(ctx, folded, with_shape(y.mut(), kept), with_shape(index.mut(), kept));
  });
  return {std::move(y), std::move(index)};
}

}  // namespace

Tensor sum(const Tensor& x) {
  if (const amp::Casts to{amp::Op::sum, x}) return sum(to(x));
  check_floating("sum", "x", x);
  return scaled_sum("sum", x, {1, x.numel(), 1}, {}, 1);
}

Tensor sum(const Tensor& x, int dim) {
  if (const amp::Casts to{amp::Op::sum, x}) return sum(to(x), dim);
  check_floating("sum", "x", x);
  dim = checked_dim("sum", x, dim);
  return scaled_sum("sum", x, fold(x.view(), dim).shape, x.shape().without(dim), 1);
}

// The mean of nothing is 0 * inf = NaN.
Tensor mean(const Tensor& x) {
  if (const amp::Casts to{amp::Op::mean, x}) return mean(to(x));
  check_floating("mean", "x", x);
  return scaled_sum("mean", x, {1, x.numel(), 1}, {}, 1.0 / static_cast<double>(x.numel()));
}

Tensor mean(const Tensor& x, int dim) {
  if (const amp::Casts to{amp::Op::mean, x}) return mean(to(x), dim);
  check_floating("mean", "x", x);
  dim = checked_dim("mean", x, dim);
  return scaled_sum("mean", x, fold(x.view(), dim).shape, x.shape().without(dim),
                    1.0 / static_cast<double>(x.size(dim)));
}

Tensor max(const Tensor& x, int dim) {
  check_floating("max", "x", x);
  dim = checked_dim("max", x, dim);
  std::pair<Tensor, Tensor> found = maxima("max", x, dim);
  return record(
      "max", std::move(found.first), {&x},
      [to_x = Input(x), shape = x.shape(), dim, index = found.second](const Tensor& dy) -> Tensors {
        Tensor dx = to_x.gradient(shape, dy);
        const View folded = fold(dx.mut(), dim);
        const Shape one{folded.shape[0], 1, folded.shape[2]};
        on(dy.device(), [&](auto& ctx) {
          kernels::gather_backward(ctx, with_shape(index.view(), one), with_shape(dy.view(), one),
                                   folded);
        });
        return {std::move(dx)};
      });
}

Tensor argmax(const Tensor& x, int dim) {
  check_floating("argmax", "x", x);
  return maxima("argmax", x, checked_dim("argmax", x, dim)).second;
}

}  // namespace pinion::nn
