// SPDX-License-Identifier: Apache-2.0
// A call with wrong arguments and what it is told, and short names for the arguments.
#pragma once

#include <limits>

#include "pinion/runtime/tensor.h"

namespace pinion::testing {

struct BadCall {
  const char* function;  // as in nn/ops.h
  const char* text;      // how the error begins
  Tensor (*call)();
};

inline Tensor f32(const Shape& s) { return Tensor::zeros(s); }
inline Tensor f64(const Shape& s) { return Tensor::zeros(s, DType::f64); }
inline Tensor i64(const Shape& s) { return Tensor::zeros(s, DType::i64); }
inline Tensor flags(const Shape& s) { return Tensor::zeros(s, DType::boolean); }
inline Tensor id(int64_t value) { return Tensor::of({value}, {1}); }
inline const Tensor kNone;
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace pinion::testing
