// SPDX-License-Identifier: Apache-2.0
// Medians, and how sure they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pinion::bench {

double median(std::vector<double> values);  // of at least one

struct Estimate {
  double value = 0, low = 0, high = 0;  // the median, and its 95 % interval
};
// The median over repetitions of each one's median. The interval is the bootstrap's (Efron 1979):
// repetitions are drawn with replacement, and within each its values.
Estimate estimate(const std::vector<std::vector<double>>& repetitions, uint64_t seed = 1);

// 0 … n-1 forwards in even rounds and backwards in odd ones (A B B A …): a drift of the machine
// then meets all alike.
std::vector<std::size_t> turn(std::size_t n, int round);

}  // namespace pinion::bench
