// SPDX-License-Identifier: Apache-2.0
// LowPrecisionCopy: the 16-bit copy of a block of f32 parameters that an optimizer keeps: it writes
// the copy in the launch that updates the parameters, and autocast takes it instead of rounding.
#pragma once

#include <memory>

#include "pinion/runtime/tensor.h"

namespace pinion::nn {

// There is no copy until autocast asks for one of some parameter; its memory is the arena's.
// Whoever writes parameters otherwise makes the copy outdated, and autocast rounds as it would
// without.
class LowPrecisionCopy {
 public:
  explicit LowPrecisionCopy(const Tensor& params);  // f32 [size], on any device
  ~LowPrecisionCopy();
  LowPrecisionCopy(const LowPrecisionCopy&) = delete;
  LowPrecisionCopy& operator=(const LowPrecisionCopy&) = delete;

  // Around a write of the parameters: begin() gives the place that shall receive what they become,
  // bf16 or f16 [size], which holds what they are; empty when nobody has asked since the last
  // end(). After end() the copy is that of the parameters; without it, it is outdated.
  View begin();
  void end();

  // The copy of w as `low` (bf16 or f16), outside the graph, in memory that the next step
  // overwrites; undefined where there is none or it is outdated. The next step makes one then.
  static Tensor find(const Tensor& w, DType low);

  struct State;

 private:
  std::shared_ptr<State> state_;  // recorded steps share it
};

}  // namespace pinion::nn
