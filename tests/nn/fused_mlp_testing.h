// SPDX-License-Identifier: Apache-2.0
// What the tests of the fused MLP share on every device.
#pragma once

#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/tensor.h"

namespace pinion::testing {

inline Tensor noise(const Shape& shape, uint64_t seed) {
  Tensor t(shape);
  on({}, [&](auto& ctx) { kernels::normal(ctx, t.mut(), {seed, 7, 0}, 0, 1); });
  return t;
}

// |a - b| / |b| over all elements.
inline double distance(const Tensor& a, const Tensor& b) {
  const auto x = a.values<float>(), y = b.values<float>();
  double difference = 0, size = 1e-30;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += std::pow(double{x[i]} - double{y[i]}, 2);
    size += std::pow(double{y[i]}, 2);
  }
  return std::sqrt(difference / size);
}

}  // namespace pinion::testing
