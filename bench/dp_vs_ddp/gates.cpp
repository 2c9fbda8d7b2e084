// SPDX-License-Identifier: Apache-2.0
// Distances between trainings, and the refusal.
#include "pinion/bench/dp_vs_ddp/gates.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pinion/kernels/check.h"

namespace pinion::bench {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double weight_distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return kInfinity;
  double apart = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = double{a[i]} - double{b[i]};
    apart += difference * difference;
    size += double{b[i]} * double{b[i]};
  }
  return std::sqrt(apart / size);
}

double loss_distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.empty()) return kInfinity;
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::fabs(a[i] - b[i]) / std::fabs(b[i]);
    if (!(distance <= most)) most = distance;
    if (std::isnan(distance)) return distance;
  }
  return most;
}

}  // namespace

std::vector<Gate> compare(const std::string& cell, const Training& expected, const Training& got,
                          double tolerance) {
  return {{cell, got.scheme, "weights", weight_distance(got.weights, expected.weights), tolerance},
          {cell, got.scheme, "loss", loss_distance(got.losses, expected.losses), tolerance},
          {cell, got.scheme, "samples", got.seen == expected.seen ? 0.0 : 1.0, 0},
          {cell, got.scheme, "ranks", got.ranks_equal ? 0.0 : 1.0, 0}};
}

void require_gates(std::span<const Gate> gates) {
  PINION_REQUIRE(desync, !gates.empty(), "gates: expected some before figures count, got none");
  const auto failed = [](const Gate& g) { return !g.passed(); };
  const auto first = std::find_if(gates.begin(), gates.end(), failed);
  if (first == gates.end()) return;
  fail(ErrorKind::desync,
       {"gates: expected ", first->scheme, " to train ", first->cell, " as one device does (",
        first->what, " within ", first->limit, "), got ", first->got, "; ",
        std::count_if(gates.begin(), gates.end(), failed), " of ", gates.size(),
        " gates failed, so there are no figures"});
}

}  // namespace pinion::bench
