// SPDX-License-Identifier: Apache-2.0
// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a
// counter-based generator. Draw i of a stream is a pure function of (seed, stream, step, i), so a
// CPU and a GPU, one thread and eight, one rank and four, and a resumed run all draw the same
// numbers. There is no state to save but the three integers of the key.
#pragma once

#include <cstdint>

#include "pinion/kernels/float_types.h"

namespace pinion {

struct PhiloxKey {
  uint64_t seed = 0;    // of the run
  uint32_t stream = 0;  // what the numbers are for: one per dropout layer, sampler, …
  uint64_t step = 0;    // which use of the stream
};

struct Philox4 {
  uint32_t v[4];
};

// The four 32-bit words of block `block`; element i of a stream is word i % 4 of block i / 4.
// Counter: block (64 bits), step (64 bits); key: seed (64 bits) mixed with the stream.
PINION_INLINE Philox4 philox(const PhiloxKey& key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(key.step), c3 = static_cast<uint32_t>(key.step >> 32);
  // The stream is spread over the key by an odd constant (2^64 / golden ratio).
  const uint64_t k = key.seed ^ (uint64_t{key.stream} * 0x9e3779b97f4a7c15u);
  uint32_t k0 = static_cast<uint32_t>(k), k1 = static_cast<uint32_t>(k >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c0, p1 = uint64_t{0xcd9e8d57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0);
    c0 = n0, c2 = n2;
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 bits, exactly representable in float.
PINION_INLINE float uniform01(uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

// Words, converted to floats, as numbers in (0, 1], so that their logarithm exists.
template <class V>
PINION_INLINE V positive01(V words) {
  return (words + 0.5f) * 0x1p-32f;
}

// The words an unbiased coin with P(true) = keep compares against: true when word < threshold.
// keep = 1 cannot be told apart from 1 - 2^-32 this way; callers skip the draw when keep is 1.
PINION_INLINE uint32_t bernoulli_threshold(double keep) {
  return keep >= 1 ? 0xffffffffu : static_cast<uint32_t>(keep * 4294967296.0);
}

}  // namespace pinion
