// SPDX-License-Identifier: Apache-2.0
// A model's buffers in as few blocks as can be, so that few operations send them all.
#pragma once

#include <vector>

#include "pinion/nn/module.h"

namespace pinion::dist {

// Moves tensors into one block for each dtype, in the order of first appearance, and returns the
// blocks [n], with padding between tensors that is zero. The tensors are on one device.
std::vector<Tensor> flatten_by_dtype(const std::vector<nn::NamedTensor>& named);

}  // namespace pinion::dist
