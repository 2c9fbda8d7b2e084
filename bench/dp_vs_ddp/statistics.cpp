// SPDX-License-Identifier: Apache-2.0
// Medians by partial sorting; the bootstrap draws with a generator of its own, so that a report
// can be made again from the same times.
#include "pinion/bench/dp_vs_ddp/statistics.h"

#include <algorithm>
#include <random>

#include "pinion/kernels/check.h"

namespace pinion::bench {

double median(std::vector<double> values) {
  PINION_CHECK(!values.empty(), "median: expected at least one value, got none");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*std::max_element(values.begin(), middle) + *middle) / 2;
}

Estimate estimate(const std::vector<std::vector<double>>& repetitions, uint64_t seed) {
  constexpr size_t kDraws = 1000;
  std::vector<double> medians;
  for (const auto& r : repetitions) medians.push_back(median(r));
  std::mt19937_64 random(seed);
  const auto draw = [&](size_t n) { return random() % n; };
  std::vector<double> draws;
  for (size_t d = 0; d < kDraws; ++d) {
    std::vector<double> round;
    for (size_t r = 0; r < repetitions.size(); ++r) {
      const std::vector<double>& from = repetitions[draw(repetitions.size())];
      std::vector<double> values;
      for (size_t i = 0; i < from.size(); ++i) values.push_back(from[draw(from.size())]);
      round.push_back(median(std::move(values)));
    }
    draws.push_back(median(std::move(round)));
  }
  std::sort(draws.begin(), draws.end());
  return {median(medians), draws[kDraws / 40], draws[kDraws - 1 - kDraws / 40]};
}

std::vector<size_t> turn(size_t n, int round) {
  std::vector<size_t> order;
  for (size_t i = 0; i < n; ++i) order.push_back(round % 2 == 0 ? i : n - 1 - i);
  return order;
}

}  // namespace pinion::bench
