// SPDX-License-Identifier: Apache-2.0
// The arithmetic of reductions on the host, shared by the backends that reduce themselves.
#pragma once

#include <span>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

// For each of `count` elements: the reduction of all `in`, taken in their order, into all `out`.
// An output may be one of the inputs; otherwise they do not overlap. Floating dtypes below 32 bits
// are computed in f32 and rounded once; integer sums wrap; a NaN anywhere makes min and max NaN.
// Throws Error (internal) for booleans, and for a mean of integers.
void reduce(ReduceOp op, DType dtype, std::span<const void* const> in, std::span<void* const> out,
            int64_t count);

// Throws what reduce() would for these.
void check_reducible(ReduceOp op, DType dtype);

}  // namespace pinion::dist
