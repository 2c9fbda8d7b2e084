// SPDX-License-Identifier: Apache-2.0
// Short-lived memory of a kernel: a stack per thread that grows to what the largest kernel needed
// and then stays, so that a steady training step asks the system for nothing.
#pragma once

#include <cstdint>

#include "pinion/kernels/types.h"

namespace pinion::kernels {

// A block of scratch while it lives, aligned to 64 bytes, contents undefined. Objects on one thread
// must be destroyed in the reverse order of construction, as locals are.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);  // throws Error (out_of_memory)
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  PINION_INLINE T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  int64_t mark_;  // the stack's height before this block
  int block_;     // the stack's block before this block
};

}  // namespace pinion::kernels
