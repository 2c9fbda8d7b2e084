// SPDX-License-Identifier: Apache-2.0
// The lazy counter-based shuffle.
#include "pinion/accel/data/sampler.h"

#include <algorithm>
#include <numeric>

#include "pinion/kernels/check.h"
#include "pinion/kernels/philox.h"

namespace pinion::accel {

namespace {

// The first of the generator's streams that orders draw from ("ord" in ASCII and a byte for the
// use): far from those that nn/init.h hands out.
constexpr uint32_t kOrderStreams = 0x6f726400;
// Up to this many samples a draw is 32 bits wide, which favours no sample by more than 2^-16 of its
// chance; above it, 64 bits.
constexpr int64_t kNarrowSamples = 65536;
constexpr int64_t kGroup = 4;  // draws made together: the words of one block

__extension__ typedef unsigned __int128 Wide;

// floor(u range) for u = word / 2^64.
int64_t scaled(uint64_t word, int64_t range) {
  return static_cast<int64_t>((Wide{word} * static_cast<uint64_t>(range)) >> 64);
}

}  // namespace

Order::Order(int64_t samples, bool shuffle, uint64_t seed, OrderUse use)
    : shuffle_(shuffle), seed_(seed), use_(use) {
  PINION_CHECK(samples >= 0, "Order: samples must not be negative, got ", samples);
  order_.resize(static_cast<size_t>(samples));
  std::iota(order_.begin(), order_.end(), int64_t{0});
  start(0);
}

void Order::start(int64_t epoch) {
  epoch_ = epoch;
  if (!pristine_) std::iota(order_.begin(), order_.end(), int64_t{0});
  pristine_ = true;
  drawn_ = shuffle_ ? 0 : samples();
}

void Order::draw(int64_t end) {
  const int64_t n = samples();
  PINION_CHECK(end <= n, "Order: position must be at most ", n, ", got ", end);
  const PhiloxKey key{seed_, kOrderStreams + static_cast<uint32_t>(use_),
                      static_cast<uint64_t>(epoch_)};
  const bool narrow = n <= kNarrowSamples;
  pristine_ = false;
  while (drawn_ < end) {
    uint64_t words[kGroup];
    if (narrow) {
      const Philox4 block = philox(key, static_cast<uint64_t>(drawn_ / kGroup));
      for (int k = 0; k < kGroup; ++k) words[k] = uint64_t{block.v[k]} << 32;
    } else {
      for (int k = 0; k < kGroup; k += 2) {
        const Philox4 block = philox(key, static_cast<uint64_t>((drawn_ + k) / 2));
        words[k] = uint64_t{block.v[1]} << 32 | block.v[0];
        words[k + 1] = uint64_t{block.v[3]} << 32 | block.v[2];
      }
    }
    const int64_t count = std::min(kGroup, n - drawn_);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t i = drawn_ + k;
      std::swap(order_[static_cast<size_t>(i)],
                order_[static_cast<size_t>(i + scaled(words[k], n - i))]);
    }
    drawn_ += count;
  }
}

}  // namespace pinion::accel
