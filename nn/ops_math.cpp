// SPDX-License-Identifier: Apache-2.0
// Element-wise operations, softmax, casts and noise.
#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion {
namespace {

using Binary = kernels::Kernel<void(ConstView, ConstView, View)>;

using nn::Input;
using nn::amp::Casts;
using AmpOp = nn::amp::Op;

void check_pair(const char* op, const Tensor& a, const Tensor& b) {
  nn::check_floating(op, "a", a);
  nn::check_like(op, "b", b, a);
  PINION_CHECK(a.shape() == b.shape(), op, ": expected two tensors of one shape, got ", a.shape(),
               " and ", b.shape());
}

Tensor write(const Binary& kernel, const Tensor& a, const Tensor& b, Tensor y) {
  on(y.device(), [&](auto& ctx) { kernel(ctx, a, b, y.mut()); });
  return y;
}

// The gradient of x, of dy's shape, that `kernel` makes of dy and b; none when x wants none.
Tensor gradient(const Binary& kernel, const Input& x, const Tensor& dy, const Tensor& b) {
  return x.wanted() ? write(kernel, dy, b, x.gradient(dy)) : Tensor();
}

Tensor write_affine(const Tensor& x, double scale, double shift, Tensor y) {
  on(x.device(), [&](auto& ctx) { kernels::affine(ctx, x, scale, shift, y.mut()); });
  return y;
}

}  // namespace

Tensor operator+(const Tensor& a, const Tensor& b) {
  if (const Casts to{AmpOp::add, a, b}) return to(a) + to(b);
  check_pair("add", a, b);
  return record("add", write(kernels::add, a, b, Tensor::like(a)), {&a, &b},
                [](const Tensor& dy) -> Tensors {
                  return {dy, dy};
                });
}

Tensor operator-(const Tensor& a, const Tensor& b) {
  if (const Casts to{AmpOp::subtract, a, b}) return to(a) - to(b);
  check_pair("subtract", a, b);
  return record("subtract", write(kernels::subtract, a, b, Tensor::like(a)), {&a, &b},
                [b = Input(b)](const Tensor& dy) -> Tensors {
                  return {dy, b.wanted() ? write_affine(dy, -1, 0, b.gradient(dy)) : Tensor()};
                });
}

Tensor operator*(const Tensor& a, const Tensor& b) {
  if (const Casts to{AmpOp::multiply, a, b}) return to(a) * to(b);
  check_pair("multiply", a, b);
  const Input to_a(a), to_b(b);
  return record(
      "multiply", write(kernels::multiply, a, b, Tensor::like(a)), {&a, &b},
      [to_a, to_b, a = nn::saved(a, to_b.wanted()),
       b = nn::saved(b, to_a.wanted())](const Tensor& dy) -> Tensors {
        return {gradient(kernels::multiply, to_a, dy, b), gradient(kernels::multiply, to_b, dy, a)};
      });
}

Tensor operator/(const Tensor& a, const Tensor& b) {
  if (const Casts to{AmpOp::divide, a, b}) return to(a) / to(b);
  check_pair("divide", a, b);
  const Input to_a(a), to_b(b);
  return record("divide", write(kernels::divide, a, b, Tensor::like(a)), {&a, &b},
                [to_a, to_b, a = nn::saved(a, to_b.wanted()), b](const Tensor& dy) -> Tensors {
                  Tensor da = gradient(kernels::divide, to_a, dy, b), db;
                  if (to_b.wanted()) {
                    db = to_b.gradient(dy);
                    on(dy.device(),
                       [&](auto& ctx) { kernels::divide_backward_b(ctx, a, b, dy, db.mut()); });
                  }
                  return {std::move(da), std::move(db)};
                });
}

Tensor operator+(const Tensor& x, double shift) { return nn::affine(x, 1, shift); }
Tensor operator-(const Tensor& x, double shift) { return nn::affine(x, 1, -shift); }
Tensor operator*(const Tensor& x, double scale) { return nn::affine(x, scale, 0); }
Tensor operator*(double scale, const Tensor& x) { return nn::affine(x, scale, 0); }
Tensor operator/(const Tensor& x, double divisor) { return nn::affine(x, 1 / divisor, 0); }
Tensor operator-(const Tensor& x) { return nn::affine(x, -1, 0); }

namespace nn {
namespace {

using Unary = kernels::Kernel<void(ConstView, View)>;

Tensor forward(const Unary& kernel, const Tensor& x) {
  Tensor y = Tensor::like(x);
  on(x.device(), [&](auto& ctx) { kernel(ctx, x, y.mut()); });
  return y;
}

// An op whose derivative is a function of its result: dx = backward(y, dy).
Tensor from_result(const char* op, const Tensor& x, const Unary& kernel, const Binary& backward) {
  Tensor y = forward(kernel, x);
  if (!grad_enabled() || !x.requires_grad()) return y;
  Tensor result = y.detach();
  return record(op, std::move(y), {&x},
                [to_x = Input(x), y = std::move(result), &backward](const Tensor& dy) -> Tensors {
                  return {write(backward, y, dy, to_x.gradient(dy))};
                });
}

}  // namespace

Tensor relu(const Tensor& x) {
  check_floating("relu", "x", x);
  return from_result("relu", x, kernels::relu_forward, kernels::relu_backward);
}

Tensor gelu(const Tensor& x, GeluForm form) {
  check_floating("gelu", "x", x);
  const bool tanh_form = form == GeluForm::tanh;
  Tensor y = Tensor::like(x);
  on(x.device(), [&](auto& ctx) { kernels::gelu_forward(ctx, x, tanh_form, y.mut()); });
  return record("gelu", std::move(y), {&x},
                [to_x = Input(x), x, tanh_form](const Tensor& dy) -> Tensors {
                  Tensor dx = to_x.gradient(dy);
                  on(dy.device(),
                     [&](auto& ctx) { kernels::gelu_backward(ctx, x, tanh_form, dy, dx.mut()); });
                  return {std::move(dx)};
                });
}

Tensor sigmoid(const Tensor& x) {
  check_floating("sigmoid", "x", x);
  return from_result("sigmoid", x, kernels::sigmoid_forward, kernels::sigmoid_backward);
}

Tensor tanh(const Tensor& x) {
  check_floating("tanh", "x", x);
  return from_result("tanh", x, kernels::tanh_forward, kernels::tanh_backward);
}

Tensor exp(const Tensor& x) {
  if (const amp::Casts to{amp::Op::exp, x}) return exp(to(x));
  check_floating("exp", "x", x);
  return from_result("exp", x, kernels::exp_forward, kernels::multiply);
}

Tensor log(const Tensor& x) {
  if (const amp::Casts to{amp::Op::log, x}) return log(to(x));
  check_floating("log", "x", x);
  return record("log", forward(kernels::log_forward, x), {&x},
                [to_x = Input(x), x](const Tensor& dy) -> Tensors {
                  return {gradient(kernels::divide, to_x, dy, x)};
                });
}

Tensor softmax(const Tensor& x) {
  if (const amp::Casts to{amp::Op::softmax, x}) return softmax(to(x));
  check_floating("softmax", "x", x);
  PINION_CHECK(x.rank() >= 1, "softmax: expected x of at least one dimension, got ", x.shape());
  return from_result("softmax", x, kernels::softmax_forward, kernels::softmax_backward);
}

Tensor log_softmax(const Tensor& x) {
  if (const amp::Casts to{amp::Op::log_softmax, x}) return log_softmax(to(x));
  check_floating("log_softmax", "x", x);
  PINION_CHECK(x.rank() >= 1, "log_softmax: expected x of at least one dimension, got ", x.shape());
  return from_result("log_softmax", x, kernels::log_softmax_forward, kernels::log_softmax_backward);
}

Tensor affine(const Tensor& x, double scale, double shift) {
  check_floating("affine", "x", x);
  return record("affine", write_affine(x, scale, shift, Tensor::like(x)), {&x},
                [x = Input(x), scale](const Tensor& dy) -> Tensors {
                  return {scale == 1 ? dy : write_affine(dy, scale, 0, x.gradient(dy))};
                });
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) {
  check_floating("masked_fill", "x", x);
  check_like("masked_fill", "mask", mask, DType::boolean, x);
  check_shape("masked_fill", "mask", mask, x.shape());
  Tensor y = Tensor::like(x);
  on(x.device(), [&](auto& ctx) { kernels::masked_fill(ctx, x, mask, value, y.mut()); });
  return record(
      "masked_fill", std::move(y), {&x}, [x = Input(x), mask](const Tensor& dy) -> Tensors {
        Tensor dx = x.gradient(dy);
        on(dy.device(), [&](auto& ctx) { kernels::masked_fill(ctx, dy, mask, 0, dx.mut()); });
        return {std::move(dx)};
      });
}

Tensor cast(const Tensor& x, DType dtype) {
  check_defined("cast", "x", x);
  PINION_CHECK(dtype <= DType::boolean, "cast: expected a dtype, got ", static_cast<int>(dtype));
  if (x.dtype() == dtype) return x;
  Tensor y(x.shape(), dtype, x.device());
  on(x.device(), [&](auto& ctx) { kernels::cast(ctx, x, y.mut()); });
  if (!is_floating(dtype)) return y;
  return record("cast", std::move(y), {&x},
                [x = Input(x), to = x.dtype()](const Tensor& dy) -> Tensors {
                  Tensor dx = x.gradient(dy.shape(), to, dy.device());
                  on(dy.device(), [&](auto& ctx) { kernels::cast(ctx, dy, dx.mut()); });
                  return {std::move(dx)};
                });
}

Tensor dropout(const Tensor& x, double p, const PhiloxKey& key) {
  check_floating("dropout", "x", x);
  PINION_CHECK(p >= 0 && p < 1, "dropout: expected p in [0, 1), got ", p);
  if (p == 0) return x;
  Tensor y = Tensor::like(x);
  on(x.device(), [&](auto& ctx) { kernels::dropout(ctx, x, p, key, y.mut()); });
  return record("dropout", std::move(y), {&x}, [x = Input(x), p, key](const Tensor& dy) -> Tensors {
    Tensor dx = x.gradient(dy);
    on(dy.device(), [&](auto& ctx) { kernels::dropout(ctx, dy, p, key, dx.mut()); });
    return {std::move(dx)};
  });
}

}  // namespace nn
}  // namespace pinion
