// SPDX-License-Identifier: Apache-2.0
// Distances between trainings, and the refusal.
#include "pinion/bench/dp_vs_ddp/gates.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pinion/kernels/check.h"

namespace pinion::bench {
namespace {

constexpr int kMostNamed = 6;  // of the gates that failed
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

// By the largest loss: one that has come down to nothing has no relative error.
double loss_distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size() || a.empty()) return kInfinity;
  double apart = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::fabs(a[i] - b[i]);
    if (!std::isfinite(distance)) return distance;
    apart = std::max(apart, distance), size = std::max(size, std::fabs(b[i]));
  }
  return apart / size;
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
  std::string list;
  int failed = 0;
  for (const Gate& g : gates) {
    if (g.passed()) continue;
    if (failed++ < kMostNamed)
      list += cat({failed > 1 ? "; " : "", g.scheme, " on ", g.cell, ": ", g.what, " apart by ",
                   g.got, ", limit ", g.limit});
  }
  PINION_REQUIRE(desync, failed == 0, "gates: expected every scheme to train as one device does, ",
                 "so there are no figures; got ", failed, " of ", gates.size(), " failed: ", list,
                 failed > kMostNamed ? " …" : "");
}

}  // namespace pinion::bench
