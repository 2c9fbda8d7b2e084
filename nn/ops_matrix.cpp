// SPDX-License-Identifier: Apache-2.0
// Matrix products, and linear with its bias and activation in one kernel.
#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/ops.h"
#include "pinion/nn/ops_support.h"

namespace pinion::nn {
namespace {

// y = op(a) op(b), op being a transpose of the last two dimensions when its flag is set.
void multiply_into(Tensor& y, const Tensor& a, bool ta, const Tensor& b, bool tb) {
  on(y.device(), [&](auto& ctx) { kernels::matmul(ctx, a, ta, b, tb, false, y.mut()); });
}

// The gradient of an input of that shape as a product; none when it wants none.
Tensor product_gradient(const Input& x, const Shape& shape, const Tensor& a, bool ta,
                        const Tensor& b, bool tb) {
  if (!x.wanted()) return {};
  Tensor dx = x.gradient(shape, a);
  multiply_into(dx, a, ta, b, tb);
  return dx;
}

// a [m,k] or, with `ta`, [k,m]; b [k,n] or, with `tb`, [n,k]; both with the same batch in front.
Tensor product(const char* op, const Tensor& a, bool ta, const Tensor& b, bool tb) {
  const int64_t m = a.size(ta ? -1 : -2), k = a.size(ta ? -2 : -1), n = b.size(tb ? -2 : -1);
  PINION_CHECK(b.size(tb ? -1 : -2) == k && (a.rank() == 2 || a.size(0) == b.size(0)), op, ": a ",
               a.shape(), ta ? " (transposed)" : "", " does not fit b ", b.shape(),
               tb ? " (transposed)" : "");
  Tensor y(a.rank() == 2 ? Shape{m, n} : Shape{a.size(0), m, n}, a.dtype(), a.device());
  multiply_into(y, a, ta, b, tb);
  const Input to_a(a), to_b(b);
  return record(
      op, std::move(y), {&a, &b},
      [to_a, to_b, ta, tb, a_shape = a.shape(), b_shape = b.shape(), a = saved(a, to_b.wanted()),
       b = saved(b, to_a.wanted())](const Tensor& dy) -> Tensors {
        return {ta ? product_gradient(to_a, a_shape, b, tb, dy, true)
                   : product_gradient(to_a, a_shape, dy, false, b, !tb),
                tb ? product_gradient(to_b, b_shape, dy, true, a, ta)
                   : product_gradient(to_b, b_shape, a, !ta, dy, false)};
      });
}

// What linear() saves, and its backward pass.
struct LinearBackward {
  Input to_x, to_w, to_b;
  bool has_bias;
  Activation activation;
  Tensor x;    // [..,in], for dw
  Tensor w;    // [out,in], for dx
  Tensor act;  // [..,out]: the result (ReLU) or the value before the activation (GELU)

  // The gradient before the activation.
  Tensor before_activation(const Tensor& dy) const {
    if (activation == Activation::none) return dy;
    Tensor dz = Tensor::like(dy);
    on(dy.device(), [&](auto& ctx) {
      if (activation == Activation::relu)
        kernels::relu_backward(ctx, act, dy, dz.mut());
      else
        kernels::gelu_backward(ctx, act, activation == Activation::gelu_tanh, dy, dz.mut());
    });
    return dz;
  }

  Tensors operator()(const Tensor& dy) const {
    const Tensor dz = before_activation(dy);
    const ConstView rows = fold_rows(dz.view());  // [rows, out]
    Tensor dx, dw, db;
    on(dy.device(), [&](auto& ctx) {
      if (to_x.wanted()) {
        dx = to_x.gradient(dy.shape().with(-1, w.size(1)), dy);
        kernels::matmul(ctx, rows, false, w, false, false, fold_rows(dx.mut()));
      }
      if (to_w.wanted()) {
        dw = to_w.gradient({rows.shape[1], x.size(-1)}, dy);
        kernels::matmul(ctx, rows, true, fold_rows(x.view()), false, false, dw.mut());
      }
      if (to_b.wanted()) {
        db = to_b.gradient({rows.shape[1]}, dy);
        kernels::sum_rows(ctx, rows, db.mut());
      }
    });
    if (!has_bias) return {std::move(dx), std::move(dw)};
    return {std::move(dx), std::move(dw), std::move(db)};
  }
};

void check_linear(const Tensor& x, const Tensor& w, const Tensor& b, Activation activation) {
  check_floating("linear", "x", x);
  check_like("linear", "weight", w, x);
  PINION_CHECK(x.rank() >= 1 && w.rank() == 2 && x.size(-1) == w.size(1), "linear: x ", x.shape(),
               " does not fit weight ", w.shape());
  PINION_CHECK(activation <= Activation::gelu_tanh, "linear: expected an activation, got ",
               static_cast<int>(activation));
  if (!b.defined()) return;
  check_like("linear", "bias", b, x);
  PINION_CHECK(b.rank() == 1 && b.size(0) == w.size(0), "linear: bias ", b.shape(),
               " does not fit weight ", w.shape());
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  if (const amp::Casts to{amp::Op::matmul, a, b}) return matmul(to(a), to(b));
  check_floating("matmul", "a", a);
  check_like("matmul", "b", b, a);
  check_rank("matmul", "a", a, 2);
  check_rank("matmul", "b", b, 2);
  return product("matmul", a, false, b, false);
}

Tensor bmm(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  if (const amp::Casts to{amp::Op::bmm, a, b}) return bmm(to(a), to(b), transpose_a, transpose_b);
  check_floating("bmm", "a", a);
  check_like("bmm", "b", b, a);
  check_rank("bmm", "a", a, 3);
  check_rank("bmm", "b", b, 3);
  return product("bmm", a, transpose_a, b, transpose_b);
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b, Activation activation) {
  if (const amp::Casts to{amp::Op::linear, x, w, b}) return linear(to(x), to(w), to(b), activation);
  check_linear(x, w, b, activation);
  const Input to_x(x), to_w(w), to_b(b);
  const bool recording = grad_enabled() && (to_x.wanted() || to_w.wanted() || to_b.wanted());
  const bool is_gelu = activation == Activation::gelu || activation == Activation::gelu_tanh;
  Tensor y(x.shape().with(-1, w.size(0)), x.dtype(), x.device());
  Tensor act = recording && is_gelu ? Tensor::like(y) : Tensor();
  on(x.device(), [&](auto& ctx) {
    kernels::linear_forward(ctx, fold_rows(x.view()), w, b.defined() ? b.view() : ConstView(),
                            activation, fold_rows(y.mut()),
                            act.defined() ? fold_rows(act.mut()) : View());
  });
  if (!recording) return y;
  if (activation == Activation::relu) act = y.detach();
  LinearBackward backward{to_x,
                          to_w,
                          to_b,
                          b.defined(),
                          activation,
                          saved(x, to_w.wanted()),
                          saved(w, to_x.wanted()),
                          std::move(act)};
  return b.defined() ? record("linear", std::move(y), {&x, &w, &b}, std::move(backward))
                     : record("linear", std::move(y), {&x, &w}, std::move(backward));
}

Tensor add_bias(const Tensor& x, const Tensor& b) {
  if (const amp::Casts to{amp::Op::add_bias, x, b}) return add_bias(to(x), to(b));
  check_floating("add_bias", "x", x);
  check_like("add_bias", "bias", b, x);
  PINION_CHECK(x.rank() >= 1 && b.rank() == 1 && b.size(0) == x.size(-1), "add_bias: bias ",
               b.shape(), " does not fit x ", x.shape());
  Tensor y = Tensor::like(x);
  on(x.device(),
     [&](auto& ctx) { kernels::add_bias(ctx, fold_rows(x.view()), b, fold_rows(y.mut())); });
  return record("add_bias", std::move(y), {&x, &b}, [b = Input(b)](const Tensor& dy) -> Tensors {
    if (!b.wanted()) return {dy, Tensor()};
    Tensor db = b.gradient({dy.size(-1)}, dy);
    on(dy.device(), [&](auto& ctx) { kernels::sum_rows(ctx, fold_rows(dy.view()), db.mut()); });
    return {dy, std::move(db)};
  });
}

}  // namespace pinion::nn
