// SPDX-License-Identifier: Apache-2.0
// What only leaves that ask for gradients carry. Internal to tensor.cpp and autograd.cpp.
#pragma once

#include <functional>
#include <vector>

#include "pinion/runtime/tensor.h"

namespace pinion::detail {

struct Leaf {
  Tensor grad;            // without a slot: the gradient, undefined until there is one
  Tensor slot;            // memory the gradient is to live in
  bool has_grad = false;  // with a slot: whether it holds a gradient
  bool claimed = false;   // a closure of the running backward() writes into the slot
  uint64_t visit = 0;     // the backward() that `pending` belongs to
  int pending = 0;        // contributions still to come
  bool touched = false;   // some contribution of this backward() was defined
  std::vector<std::function<void(const Tensor&)>> hooks;
};

}  // namespace pinion::detail
