// SPDX-License-Identifier: Apache-2.0
// How long the benchmark will take: what the gates took says it, and how many repetitions fit.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "pinion/bench/dp_vs_ddp/processes.h"

namespace pinion::bench {

// Seconds of a timed run, by the gate's run of the same configuration.
double seconds_by_gate(const RunReport& gate, const Cell& cell, const Timing& timing);

// Of `wanted` repetitions of `seconds` each, those that fit into what is left of `minutes` after
// `spent` seconds: at least 2, if as many are wanted. 0 minutes: all.
int fitting(int wanted, double seconds, double spent, double minutes);

// "1:05": minutes and seconds, rounded up.
std::string clock_text(double seconds);

// Tells what begins and when the end is to be expected; the plan is corrected by what it took.
class Progress {
 public:
  using Say = std::function<void(const std::string&)>;
  Progress(Say say, double planned) : say_(std::move(say)), planned_(planned) {}
  void begin(const std::string& what) const;
  void done(double planned) { done_ += planned; }

 private:
  Say say_;
  double planned_, done_ = 0;  // seconds
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace pinion::bench
