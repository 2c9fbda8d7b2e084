// SPDX-License-Identifier: Apache-2.0
// Gradient clipping, by the norm of all gradients together and by value.
#pragma once

#include <vector>

#include "pinion/optim/optimizer.h"

namespace pinion::optim {

// What to do when some gradient is infinite or NaN: go on with a norm that is not finite either, as
// PyTorch does by default, or throw Error (non_finite).
enum class NonFinite : uint8_t { allow, error };

// Scales all gradients so that their joint 2-norm is at most max_norm: by
// min(1, max_norm / (norm + 1e-6)). Returns the norm before clipping. For an optimizer: one pass
// over its arenas, the factor is applied inside the next step() (Optimizer::multiply_gradients),
// and the norm is of the gradients times the pending factor, so unscale before clipping. A norm
// that is not finite leaves the gradients alone.
double clip_grad_norm_(Optimizer& optimizer, double max_norm, NonFinite policy = NonFinite::allow);
// The same on loose tensors, whose gradients are multiplied at once; those without one are skipped.
double clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm,
                       NonFinite policy = NonFinite::allow);

// Limits every element of every gradient to [-limit, limit].
void clip_grad_value_(Optimizer& optimizer, double limit);
void clip_grad_value_(const std::vector<Tensor>& parameters, double limit);

}  // namespace pinion::optim
