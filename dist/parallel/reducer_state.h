// SPDX-License-Identifier: Apache-2.0
// What a reducer remembers of each parameter and each bucket. Internal to reducer*.cpp.
#pragma once

#include "pinion/dist/parallel/reducer.h"

namespace pinion::dist {

struct Reducer::Entry {
  std::string name;
  Tensor param;
  Tensor slot;  // of its gradient
  size_t bucket;
  int fired = 0;     // how often its gradient was ready in this step
  int expected = 1;  // how often it will be; 0: not at all
};

struct Reducer::State {
  size_t first_entry, end_entry;
  int pending = 0;  // entries that are not ready
  bool launched = false;
  uint64_t digest = 0;  // of the reduced gradients, where ranks compare them
};

}  // namespace pinion::dist
