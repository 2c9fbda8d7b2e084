// SPDX-License-Identifier: Apache-2.0
// The generator of philox.h on all lanes at once: the same words, one block of four per lane.
#pragma once

#include "pinion/kernels/cpu/packet.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

using Words = Vec<uint32_t>;
using WideWords = Vec<uint64_t>;
inline constexpr int64_t kGroup = 4 * kLanes<uint32_t>;  // elements drawn at a time

// Products of the low halves of 64-bit lanes, whose high halves are ignored.
PINION_INLINE WideWords multiply_low_halves(WideWords a, WideWords b) {
#if defined(__AVX512F__)
  return (WideWords)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (WideWords)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (WideWords)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

struct Product {
  Words high, low;
};
PINION_INLINE Product multiply(Words a, uint32_t factor) {
  constexpr uint64_t kHigh = 0xffffffff00000000u;
  const WideWords f = splat<uint64_t>(factor), wide = bit_cast<WideWords>(a);
  const WideWords even = multiply_low_halves(wide, f), odd = multiply_low_halves(wide >> 32, f);
  return {bit_cast<Words>((even >> 32) | (odd & kHigh)),
          bit_cast<Words>((even & ~kHigh) | (odd << 32))};
}

// Lane l works on block (l % 4) (lanes / 4) + l / 4 of the group: after transposing the four words
// of each 128-bit part, the words lie in the order of the elements.
PINION_INLINE Words block_of_lane() {
  Words lane = {};
  for (uint32_t l = 0; l < kLanes<uint32_t>; ++l)
    lane[l] = l % 4 * static_cast<uint32_t>(kLanes<uint32_t> / 4) + l / 4;
  return lane;
}

struct FourWords {
  Words v[4];  // v[j], lane l: word j of the lane's block
};
// Blocks [first, first + lanes).
PINION_INLINE FourWords philox_lanes(const PhiloxKey& key, uint64_t first) {
  const uint32_t low = static_cast<uint32_t>(first);
  Words c0 = block_of_lane() + low;
  const Words carried = bit_cast<Words>(c0 < low);  // -1 where the low word ran over
  Words c1 = splat<uint32_t>(static_cast<uint32_t>(first >> 32)) - carried;
  Words c2 = splat<uint32_t>(static_cast<uint32_t>(key.step));
  Words c3 = splat<uint32_t>(static_cast<uint32_t>(key.step >> 32));
  const uint64_t k = key.seed ^ (uint64_t{key.stream} * 0x9e3779b97f4a7c15u);
  uint32_t k0 = static_cast<uint32_t>(k), k1 = static_cast<uint32_t>(k >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const auto [high0, low0] = multiply(c0, 0xd2511f53u);
    const auto [high1, low1] = multiply(c2, 0xcd9e8d57u);
    c0 = high1 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low1, c3 = low0;
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

// Four registers, one per word of a block, to the group's elements in order.
template <class V>
PINION_INLINE void to_element_order(V (&v)[4]) {
  Int<V> low = {}, high = {}, low2 = {}, high2 = {};
  constexpr int L = LaneTraits<V>::kCount;
  for (int l = 0; l < L; ++l) {  // per 128-bit part: a0 b0 a1 b1, a2 b2 a3 b3; then by pairs
    const int part = l / 4 * 4, i = l % 4;
    low[l] = part + i / 2 + i % 2 * L;
    high[l] = part + 2 + i / 2 + i % 2 * L;
    low2[l] = part + i % 2 + i / 2 * L;
    high2[l] = part + 2 + i % 2 + i / 2 * L;
  }
  const V ab_low = shuffle(v[0], v[1], low), ab_high = shuffle(v[0], v[1], high);
  const V cd_low = shuffle(v[2], v[3], low), cd_high = shuffle(v[2], v[3], high);
  v[0] = shuffle(ab_low, cd_low, low2);
  v[1] = shuffle(ab_low, cd_low, high2);
  v[2] = shuffle(ab_high, cd_high, low2);
  v[3] = shuffle(ab_high, cd_high, high2);
}

}  // namespace
}  // namespace pinion::kernels::PINION_RUNG
