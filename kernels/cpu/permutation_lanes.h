// SPDX-License-Identifier: Apache-2.0
// The permutation of kernels/permutation.h on all lanes at once: the same numbers.
#pragma once

#include "pinion/kernels/cpu/philox_lanes.h"
#include "pinion/kernels/permutation.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

struct MultiplyLanes {
  PINION_INLINE Product operator()(Words a, uint32_t factor) const { return multiply(a, factor); }
};

// The elements at as many positions from `first` on as a register has lanes. Positions behind the
// end give elements of no meaning.
PINION_INLINE Words permuted_lanes(const Permutation& permutation, int64_t first) {
  const uint32_t n = permutation.size();
  Words at = {};
  for (uint32_t l = 0; l < kLanes<uint32_t>; ++l) {
    const int64_t i = first + l;
    at[l] = i < n ? static_cast<uint32_t>(i) : 0;
  }
  for (Words walking = at | 0xffffffffu;;) {  // -1 where a lane is not inside yet
    const Words next = permutation.turn(at, MultiplyLanes{});
    at = (next & walking) | (at & ~walking);
    walking = bit_cast<Words>(at >= n) & walking;
    uint32_t any = 0;
    for (int64_t l = 0; l < kLanes<uint32_t>; ++l) any |= walking[l];
    if (!any) return at;
  }
}

}  // namespace
}  // namespace pinion::kernels::PINION_RUNG
