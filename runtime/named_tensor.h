// SPDX-License-Identifier: Apache-2.0
// A tensor and its name: the unit of weight files, module state and optimizer state.
#pragma once

#include <string>

#include "pinion/runtime/tensor.h"

namespace pinion {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

}  // namespace pinion
