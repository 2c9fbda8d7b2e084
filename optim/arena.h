// SPDX-License-Identifier: Apache-2.0
// Arena: the parameters of one group, dtype and device in one flat block, their gradients in a
// second block of the same layout, optimizer state in more. A whole model is then a few pointer
// ranges: one kernel call steps it, one pass takes its norm, and a bucket of a reducer is a range.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pinion/nn/low_precision.h"
#include "pinion/nn/module.h"

namespace pinion::optim {

class Arena {
 public:
  struct Item {
    std::string name;
    Tensor param;    // lives in params()
    Tensor grad;     // its slot in grads()
    int64_t offset;  // in elements
    int64_t numel;
    const void* home;   // where the parameter must be
    int64_t steps = 0;  // updates of this parameter so far
  };
  // Neighbouring items that all have a gradient, were updated equally often, and so are one call.
  struct Range {
    size_t first_item, end_item;
    int64_t begin, end;  // elements, padding included
    int64_t steps;
  };
  static constexpr int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector

  // Moves the parameters, all of one dtype and on one device, into a new block. Gradients that are
  // there already move too.
  explicit Arena(std::vector<nn::NamedTensor> params);

  DType dtype() const { return params_.dtype(); }
  Device device() const { return params_.device(); }
  int64_t size() const { return params_.numel(); }  // elements, padding included
  std::span<const Item> items() const { return items_; }
  Tensor& params() { return params_; }  // [size]
  Tensor& grads() { return grads_; }    // [size]; padding is zero

  // Adds a block of state, zeros, under a name such as "exp_avg"; returns its number.
  size_t add_state(std::string name);
  Tensor& state_block(size_t i) { return states_[i].block; }  // [size]
  // Everything a checkpoint needs, as views of the live blocks: "exp_avg.<parameter>" in the
  // parameter's shape, and "step.<parameter>" (i64, no dimensions), a copy.
  void list_state(std::vector<nn::NamedTensor>& out);
  void set_steps(size_t item, int64_t steps) { items_[item].steps = steps; }

  // The ranges that have a gradient now. The list is the arena's own and valid until the next call.
  // Throws Error when a parameter has left the arena, for a second optimizer or another device.
  std::span<const Range> ranges();
  void count_step(const Range& range);
  void zero_grad();  // afterwards no parameter has a gradient

  // Around what updates the parameters: see nn::LowPrecisionCopy. Empty unless they are f32.
  View begin_update() { return low_ ? low_->begin() : View(); }
  void end_update() {
    if (low_) low_->end();
  }

 private:
  struct State {
    std::string name;
    Tensor block;
  };
  Tensor piece(const Tensor& block, const Item& item) const;

  std::vector<Item> items_;
  Tensor params_, grads_;
  std::vector<State> states_;
  std::vector<Range> ranges_;
  std::unique_ptr<nn::LowPrecisionCopy> low_;
};

}  // namespace pinion::optim
