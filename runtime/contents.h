// SPDX-License-Identifier: Apache-2.0
// Takes the contents of a leaf away and gives it others: for whoever keeps parameters and gradients
// elsewhere than in their tensors (dist/zero/zero.h).
#pragma once

#include "pinion/runtime/tensor.h"

namespace pinion {

// Points t, for every handle that shares it, at the memory of `home` (same shape, dtype, device)
// without copying. Tensors that alias the old memory keep it.
void take_contents(Tensor& t, const Tensor& home);
// Leaves t its shape, dtype and device only: what reads it finds a null pointer.
void drop_contents(Tensor& t);
bool has_contents(const Tensor& t);
// The gradient of t is no longer put anywhere in particular; one that is there is dropped.
void drop_grad_slot(Tensor& t);

}  // namespace pinion
