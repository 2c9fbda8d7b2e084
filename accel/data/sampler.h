// SPDX-License-Identifier: Apache-2.0
// The order in which an epoch visits the samples of a data set.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pinion::accel {

// What an order is for: two orders of one seed and different uses have nothing in common.
enum class OrderUse : uint8_t { epochs, split, noise };

// A permutation of [0, samples) that is a pure function of (seed, epoch): a Fisher-Yates shuffle
// whose draws come from the counter-based generator, so there is no random state to save. Position
// i is swapped with i + floor(u_i (samples - i)), u_i being draw i of the stream of this epoch. The
// shuffle runs front to back and only as far as it is asked for: starting an epoch of a large data
// set costs nothing, and going to its middle costs the draws that lie before.
class Order {
 public:
  Order(int64_t samples, bool shuffle, uint64_t seed, OrderUse use = OrderUse::epochs);

  int64_t samples() const { return static_cast<int64_t>(order_.size()); }
  void start(int64_t epoch);  // ends the validity of all spans

  // The samples at positions [begin, begin + count). What is handed out is not written again before
  // the next start(), so another thread may read it.
  std::span<const int64_t> take(int64_t begin, int64_t count) {
    if (begin + count > drawn_) draw(begin + count);
    return {order_.data() + begin, static_cast<size_t>(count)};
  }

 private:
  void draw(int64_t end);

  std::vector<int64_t> order_;
  int64_t drawn_ = 0;  // positions below are final
  bool shuffle_;
  bool pristine_ = true;  // order_ is the identity
  uint64_t seed_;
  OrderUse use_;
  int64_t epoch_ = 0;
};

}  // namespace pinion::accel
