// SPDX-License-Identifier: Apache-2.0
// A permutation of [0, n) that is computed where it is needed and never stored: a Feistel network
// (Luby & Rackoff 1988) on the bits of an index, walked until it leads back into the range (Black &
// Rogaway 2002). docs/numerics.md has the formula. Any device, any thread and any position of an
// epoch get the same order from three integers.
#pragma once

#include "pinion/kernels/philox.h"

namespace pinion::kernels {

// The halves of products of 32-bit words, which are one word, or a register of them on the CPU.
template <class Words>
struct WordProduct {
  Words high, low;
};
struct MultiplyWords {
  PINION_INLINE WordProduct<uint32_t> operator()(uint32_t a, uint32_t factor) const {
    const uint64_t product = uint64_t{factor} * a;
    return {static_cast<uint32_t>(product >> 32), static_cast<uint32_t>(product)};
  }
};

class Permutation {
 public:
  static constexpr int64_t kMost = int64_t{1} << 31;  // elements

  PINION_INLINE Permutation(int64_t n, const PhiloxKey& key)
      : n_(static_cast<uint32_t>(n)), key_(philox(key, 0)) {
    while (bits_ < 31 && (uint32_t{1} << bits_) < n_) ++bits_;
    low_ = (bits_ + 1) / 2;
    rounds_ = bits_ < kFewBits ? 24 : 12;
  }
  PINION_INLINE uint32_t size() const { return n_; }

  // The element at position i of [0, n): fewer than two turns of the network on average.
  PINION_INLINE int64_t operator()(int64_t i) const {
    uint32_t at = static_cast<uint32_t>(i);
    do at = turn(at, MultiplyWords{});
    while (at >= n_);
    return at;
  }

  // A permutation of [0, 2^bits), the least power of two that is not below n: the halves of an
  // index take turns at changing each other.
  template <class Words, class Multiply>
  PINION_INLINE Words turn(Words at, Multiply times) const {
    const uint32_t low_mask = (uint32_t{1} << low_) - 1;
    const uint32_t high_mask = (uint32_t{1} << (bits_ - low_)) - 1;
    Words low = at & low_mask, high = at >> low_;
    for (uint32_t round = 0; round < rounds_; round += 4) {
      high ^= mixed(low, round, key_.v[0], times) & high_mask;
      low ^= mixed(high, round + 1, key_.v[1], times) & low_mask;
      high ^= mixed(low, round + 2, key_.v[2], times) & high_mask;
      low ^= mixed(high, round + 3, key_.v[3], times) & low_mask;
    }
    return high << low_ | low;
  }

 private:
  // Below so many bits a round has few functions to choose from, and it takes more of them until
  // all orders are equally likely: tests/kernels/permutation_test.cpp counts.
  static constexpr int kFewBits = 6;

  // Four rounds of Philox-2x32 (Salmon et al., SC 2011) on the counter (x, round).
  template <class Words, class Multiply>
  PINION_INLINE static Words mixed(Words x, uint32_t round, uint32_t key, Multiply times) {
    Words y = Words{} + round;
    for (int i = 0; i < 4; ++i) {
      const auto product = times(x, 0xd256d193u);
      x = product.high ^ y ^ key;
      y = product.low;
      key += 0x9e3779b9u;
    }
    return x;
  }

  uint32_t n_, rounds_;
  int bits_ = 0, low_;
  Philox4 key_;
};

}  // namespace pinion::kernels
