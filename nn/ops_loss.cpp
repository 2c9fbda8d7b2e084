// SPDX-License-Identifier: Apache-2.0
// Layer norm and the losses.
#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

// The type of statistics and losses over elements of type t.
DType wide(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

void check_cross_entropy(const Tensor& logits, const Tensor& target,
                         const CrossEntropyOptions& options) {
  check_floating("cross_entropy", "logits", logits);
  check_like("cross_entropy", "target", target, DType::i64, logits);
  PINION_CHECK(logits.rank() >= 1 && target.shape() == logits.shape().without(-1),
               "cross_entropy: target ", target.shape(), " does not fit logits ", logits.shape());
  PINION_CHECK(options.label_smoothing >= 0 && options.label_smoothing <= 1,
               "cross_entropy: expected label_smoothing in [0, 1], got ", options.label_smoothing);
  if (!options.weight.defined()) return;
  check_like("cross_entropy", "weight", options.weight, DType::f32, logits);
  check_shape("cross_entropy", "weight", options.weight, target.shape());
}

// The kernel marks an impossible target by a total of NaN (as a NaN weight does). On the CPU the
// total is at hand, so the error names the target; on a device the loss is NaN.
void check_targets(const Tensor& target, const Tensor& total, int64_t classes, int64_t ignored) {
  if (total.device().kind != Device::Kind::cpu || !std::isnan(total.item())) [[likely]]
    return;
  const int64_t* ids = target.view().as<int64_t>();
  for (int64_t i = 0; i < target.numel(); ++i)
    PINION_CHECK((ids[i] >= 0 && ids[i] < classes) || ids[i] == ignored,
                 "cross_entropy: expected targets in [0, ", classes, ") or ", ignored, ", got ",
                 ids[i], " at position ", i);
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& target,
                     const CrossEntropyOptions& options) {
  if (const amp::Casts to{amp::Op::cross_entropy, logits})
    return cross_entropy(to(logits), target, options);
  check_cross_entropy(logits, target, options);
  const DType type = wide(logits.dtype());
  Tensor loss({}, type, logits.device()), total({}, type, logits.device());
  Tensor dlogits = grad_enabled() && logits.requires_grad() ? Tensor::like(logits) : Tensor();
  const Shape rows{target.numel()};
  on(logits.device(), [&](auto& ctx) {
    kernels::cross_entropy(
        ctx, fold_rows(logits.view()), with_shape(target.view(), rows),
        options.weight.defined() ? with_shape(options.weight.view(), rows) : ConstView(),
        options.ignore_index, options.label_smoothing, loss.mut(), total.mut(),
        dlogits.defined() ? fold_rows(dlogits.mut()) : View());
  });
  check_targets(target, total, logits.size(-1), options.ignore_index);
  return record(
      "cross_entropy", std::move(loss), {&logits}, [dlogits](const Tensor& dy) mutable -> Tensors {
        // The node runs once, so the block it saved becomes the gradient; and mostly the
        // loss is what backward() starts from, so that dy is one.
        if (dy.device().kind != Device::Kind::cpu || dy.item() != 1)
          on(dy.device(), [&](auto& ctx) { kernels::scale_by(ctx, dlogits, dy, dlogits.mut()); });
        return {std::move(dlogits)};
      });
}

Tensor mse_loss(const Tensor& x, const Tensor& target) {
  if (const amp::Casts to{amp::Op::mse_loss, x, target}) return mse_loss(to(x), to(target));
  check_floating("mse_loss", "x", x);
  check_like("mse_loss", "target", target, x);
  check_shape("mse_loss", "target", target, x.shape());
  const int64_t n = x.numel();
  const double inverse = 1.0 / static_cast<double>(n);
  Tensor difference = Tensor::like(x), squares = Tensor::like(x);
  Tensor loss({}, x.dtype(), x.device());
  on(x.device(), [&](auto& ctx) {
    kernels::subtract(ctx, x, target, difference.mut());
    kernels::multiply(ctx, difference, difference, squares.mut());
    kernels::sum_axis(ctx, with_shape(squares.view(), {1, n, 1}), inverse,
                      with_shape(loss.mut(), {1, 1}));
  });
  return record("mse_loss", std::move(loss), {&x, &target},
                [to_x = Input(x), to_target = Input(target), difference,
                 inverse](const Tensor& dy) -> Tensors {
                  // d loss / dx = 2 / n dy (x - target), and the negative for the target.
                  const auto gradient = [&](const Input& input, double sign) {
                    if (!input.wanted()) return Tensor();
                    Tensor scale({}, wide(dy.dtype()), dy.device());  // 2 / n is too small for f16
                    Tensor out = input.gradient(difference);
                    on(dy.device(), [&](auto& ctx) {
                      kernels::cast(ctx, dy, scale.mut());
                      kernels::affine(ctx, scale, sign * 2 * inverse, 0, scale.mut());
                      kernels::scale_by(ctx, difference, scale, out.mut());
                    });
                    return out;
                  };
                  return {gradient(to_x, 1), gradient(to_target, -1)};
                });
}

}  // namespace pinion::nn
