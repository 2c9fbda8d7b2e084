// SPDX-License-Identifier: Apache-2.0
// Runs an op row forward and backward, and compares results.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "op_inputs.h"

namespace pinion::testing {

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
inline Result run_row(const OpCase& c, Tensors& leaves, const Tensor& dy = {}) {
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

// The functions that nn/ops.h and nn/ops_image.h declare, as "linear(x, w, b, activation)": names
// only, no types.
std::vector<std::string> declared_functions();

}  // namespace pinion::testing

namespace pinion {
inline void PrintTo(const Shape& s, std::ostream* out) { *out << cat({s}); }
}  // namespace pinion
