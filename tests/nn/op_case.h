// SPDX-License-Identifier: Apache-2.0
// What a row of op_cases.h is: an operation, its inputs and how it is called.
#pragma once

#include <ostream>
#include <string_view>
#include <vector>

#include "pinion/nn/ops.h"

namespace pinion::testing {

// What the elements of an input look like. The last three are constants of their own type, through
// which no gradient flows.
enum class Fill : uint8_t {
  real,      // in (-2, 2)
  positive,  // in (0.5, 2)
  nonzero,   // 0.2 to 2 away from zero on either side: clear of kinks and poles
  distinct,  // no two closer than 0.01: clear of ties
  ids,       // i64 in [0, below)
  mask,      // bool, a third of them true
  weights,   // f32 in (0.5, 2)
};

struct Input {
  Shape shape;
  Fill fill;
  int64_t below = 0;
  bool differentiable() const { return fill < Fill::ids; }
};

inline Input real(const Shape& s) { return {s, Fill::real}; }
inline Input positive(const Shape& s) { return {s, Fill::positive}; }
inline Input nonzero(const Shape& s) { return {s, Fill::nonzero}; }
inline Input distinct(const Shape& s) { return {s, Fill::distinct}; }
inline Input ids(const Shape& s, int64_t below) { return {s, Fill::ids, below}; }
inline Input mask(const Shape& s) { return {s, Fill::mask}; }
inline Input weights(const Shape& s) { return {s, Fill::weights}; }

using Xs = const Tensors&;

enum class Gradient : uint8_t {
  smooth,   // differences in f64 can check it
  stepped,  // they cannot: the op rounds, or drops a gradient on purpose
  none,     // the op is not differentiable
};

struct OpCase {
  const char* name;      // also the key of its golden values
  const char* function;  // the declaration in nn/ops.h that it covers: name and parameter names
  std::vector<Input> inputs;
  Tensor (*run)(Xs x);
  Gradient gradient = Gradient::smooth;
  const char* no_golden = nullptr;  // why PyTorch's values cannot be compared

  bool differentiable() const { return gradient != Gradient::none; }
  // Rows named *_large are big enough for eight threads to share the work. Golden values are with
  // the small rows of the same function.
  bool large() const { return std::string_view(name).ends_with("_large"); }
};

inline void PrintTo(const OpCase& c, std::ostream* out) { *out << c.name; }

}  // namespace pinion::testing
