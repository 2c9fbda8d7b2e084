// SPDX-License-Identifier: Apache-2.0
// A 64-bit digest of memory that depends on every bit and its place, at about the speed of reading:
// ranks compare it instead of the gradients themselves.
#pragma once

#include <cstdint>

#include "pinion/runtime/tensor.h"

namespace pinion::dist {

// Sixteen lanes of 64 bits; in each, for every word q: h = rotl(h, 5) + q, g = rotl(g, 11) ^ (q +
// h), and at the end the sum over lanes of h ^ g. Both steps are bijections of h, so one changed
// word always changes its lane. Pieces of 256 KiB are digested by themselves and combined in their
// order, so the result depends neither on the number of threads nor on the kind of CPU.
uint64_t digest_of(const void* data, int64_t bytes);
uint64_t digest_of(const Tensor& x);  // of the contents; x is on the CPU

}  // namespace pinion::dist
