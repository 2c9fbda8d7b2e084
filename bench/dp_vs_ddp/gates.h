// SPDX-License-Identifier: Apache-2.0
// What must hold before a figure counts: every scheme trains the same model on the same samples.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pinion::bench {

// How a short training ended.
struct Training {
  std::string scheme;
  std::vector<float> weights;
  std::vector<double> losses;  // of the whole batch, by step
  uint64_t seen = 0;           // a hash of the set of samples
  bool ranks_equal = true;     // every rank ended with the same bits
};

struct Gate {
  std::string cell, scheme, what;               // what: "weights", "loss", "samples" or "ranks"
  double got = 0, limit = 0;                    // a distance, or the number of disagreements
  bool passed() const { return got <= limit; }  // NaN fails
};

// Weights by |a - b| / |b| (Euclidean), losses by the largest difference of a step over the
// largest loss; both up to `tolerance`. Samples and ranks must agree exactly. Different sizes are a
// distance of infinity.
std::vector<Gate> compare(const std::string& cell, const Training& expected, const Training& got,
                          double tolerance);

// Throws Error (desync) that says which gates failed.
void require_gates(std::span<const Gate> gates);

}  // namespace pinion::bench
