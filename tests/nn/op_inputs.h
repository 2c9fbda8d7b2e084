// SPDX-License-Identifier: Apache-2.0
// Makes the inputs of an op row, for tests and benchmarks.
#pragma once

#include <cmath>

#include "op_cases.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/autograd.h"

namespace pinion::testing {

// Element i of `n` for an input, from a uniform number in [0, 1).
inline double element(const Input& in, int64_t i, int64_t n, double u) {
  switch (in.fill) {
    case Fill::real: return 4 * u - 2;
    case Fill::positive:
    case Fill::weights: return 0.5 + 1.5 * u;
    case Fill::nonzero: return u < 0.5 ? -0.2 - 3.6 * u : 0.2 + 3.6 * (u - 0.5);
    case Fill::distinct: {  // n is not a multiple of 37
      const int64_t place = i * 37 % n - n / 2;
      return 0.03 * static_cast<double>(place);
    }
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

// `stream` keeps inputs apart.
inline Tensor make_input(const Input& in, DType floating, uint32_t stream) {
  Tensor x(in.shape, DType::f64);
  const View view = x.mut();
  on(Device{}, [&](auto& ctx) { kernels::uniform(ctx, view, {2026, stream, 0}, 0, 1); });
  auto* v = view.as<double>();
  const int64_t n = view.numel();
  for (int64_t i = 0; i < n; ++i) v[i] = element(in, i, n, v[i]);
  return converted(x, dtype_for(in, floating));
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

}  // namespace pinion::testing
