// SPDX-License-Identifier: Apache-2.0
// Makes the inputs of an op row, runs it forward and backward, and compares results.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "op_cases.h"
#include "pinion/kernels/philox.h"
#include "pinion/runtime/autograd.h"

namespace pinion::testing {

// Element i of `n` for an input; `stream` keeps inputs apart.
inline double element(const Input& in, int64_t i, int64_t n, uint32_t stream) {
  const Philox4 block = philox({2026, stream, 0}, static_cast<uint64_t>(i / 4));
  const double u = uniform01(block.v[i % 4]);
  switch (in.fill) {
    case Fill::real: return 4 * u - 2;
    case Fill::positive:
    case Fill::weights: return 0.5 + 1.5 * u;
    case Fill::nonzero: return u < 0.5 ? -0.2 - 3.6 * u : 0.2 + 3.6 * (u - 0.5);
    case Fill::distinct: return 0.03 * static_cast<double>(i * 37 % n - n / 2);  // n not 37 k
    case Fill::ids: return std::floor(u * static_cast<double>(in.below));
    case Fill::mask: return u < 1.0 / 3;
  }
  return 0;
}

inline DType dtype_for(const Input& in, DType floating) {
  if (in.fill == Fill::ids) return DType::i64;
  if (in.fill == Fill::mask) return DType::boolean;
  return in.fill == Fill::weights ? DType::f32 : floating;
}

// Conversions here stand outside any graph.
inline Tensor converted(const Tensor& x, DType dtype) {
  const NoGrad no_grad;
  return nn::cast(x.detach(), dtype).clone();
}

inline Tensor make_input(const Input& in, DType floating, uint32_t stream) {
  const int64_t n = in.shape.numel();
  std::vector<double> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(i)] = element(in, i, n, stream);
  return converted(Tensor::of(v, in.shape), dtype_for(in, floating));
}

// The inputs of a row; those that are differentiable require a gradient.
inline Tensors make_leaves(const OpCase& c, DType floating) {
  Tensors leaves;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    Tensor x = make_input(c.inputs[i], floating, static_cast<uint32_t>(i + 1));
    x.requires_grad(c.differentiable() && c.inputs[i].differentiable());
    leaves.push_back(std::move(x));
  }
  return leaves;
}

// A gradient to start backward() from.
inline Tensor make_cotangent(const Tensor& y) {
  return make_input(real(y.shape()), y.dtype(), 99).to(y.device());
}

struct Result {
  Tensor y;
  std::vector<Tensor> dx;  // undefined for constants

  // Every tensor of the result under a name for messages.
  template <class F>
  void each(const Result& other, F&& compare) const {
    compare("the result", y, other.y);
    for (size_t i = 0; i < dx.size(); ++i)
      compare("the gradient of input " + std::to_string(i), dx[i], other.dx[i]);
  }
};

// One pass forward and, for differentiable rows, backward; the leaves' gradients start from
// nothing.
inline Result run_row(const OpCase& c, Tensors& leaves, Tensor dy = {}) {
  for (size_t i = 0; i < leaves.size(); ++i) leaves[i].set_grad({});
  Result r;
  const Tensor y = c.run(leaves);
  if (y.node()) backward(y, dy.defined() ? dy : make_cotangent(y));
  r.y = y.detach();
  for (size_t i = 0; i < leaves.size(); ++i)
    r.dx.push_back(leaves[i].grad().defined() ? leaves[i].grad().clone() : Tensor());
  return r;
}
inline Result run_row(const OpCase& c, DType floating) {
  Tensors leaves = make_leaves(c, floating);
  return run_row(c, leaves);
}

inline std::vector<double> reals(const Tensor& t) {
  return converted(t.to(Device{}), DType::f64).values<double>();
}

inline std::string bits(const Tensor& t) {
  const ConstView v = t.view();
  return {static_cast<const char*>(v.data), static_cast<size_t>(t.numel() * size_of(t.dtype()))};
}

inline void expect_same_bits(const Result& got, const Result& expected) {
  got.each(expected, [](const std::string& what, const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.defined(), b.defined()) << what;
    if (!a.defined()) return;
    EXPECT_TRUE(a.shape() == b.shape() && bits(a) == bits(b)) << what;
  });
}

// |a - b| / |b| in the Frobenius norm, differences up to `floor` not counted; 0 when both are zero.
inline double relative_error(const Tensor& a, const Tensor& b, double floor = 0) {
  const std::vector<double> p = reals(a), q = reals(b);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < q.size(); ++i) {
    double d = std::abs(p[i] - q[i]);
    d = d <= floor ? 0 : d - floor;  // NaN stays NaN
    difference += d * d;
    norm += q[i] * q[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

inline void expect_close(const Result& got, const Result& expected, double y_bound,
                         double dx_bound) {
  // Half of what the smallest f16 numbers are apart: small gradients are no better than that.
  constexpr double kHalfFloor = 1.0 / (1 << 25);

  got.each(expected, [&](const std::string& what, const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.defined(), b.defined()) << what;
    if (!a.defined()) return;
    ASSERT_EQ(a.shape(), b.shape()) << what;
    const double floor = a.dtype() == DType::f16 ? kHalfFloor : 0;
    EXPECT_LE(relative_error(a, b, floor), what == "the result" ? y_bound : dx_bound) << what;
  });
}

// The functions that nn/ops.h declares, as "linear(x, w, b, activation)": names only, no types.
std::vector<std::string> declared_functions();

}  // namespace pinion::testing

namespace pinion {
inline void PrintTo(const Shape& s, std::ostream* out) { *out << cat({s}); }
}  // namespace pinion
