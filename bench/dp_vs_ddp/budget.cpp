// SPDX-License-Identifier: Apache-2.0
// A gate's run is setting up and kGateSteps steps; a timed one has as much of the first.
#include "pinion/bench/dp_vs_ddp/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace pinion::bench {

double seconds_by_gate(const RunReport& gate, const Cell& cell, const Timing& timing) {
  const Phases& p = gate.processes[0].phases;
  const double steps = p.forward + p.backward + p.exchange + p.update;
  const double timed = timing.warm_up + static_cast<double>(timing.blocks) * cell.steps_per_block;
  return std::max(0.0, gate.seconds - steps) + steps / kGateSteps * timed;
}

int fitting(int wanted, double seconds, double spent, double minutes) {
  if (minutes <= 0 || seconds <= 0) return wanted;
  const double fit = std::floor(std::max(0.0, 60 * minutes - spent) / seconds);
  return static_cast<int>(std::clamp(fit, std::min(2.0, 1.0 * wanted), 1.0 * wanted));
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(std::max(0.0, seconds)));
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

void Progress::begin(const std::string& what) const {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
  const double pace = done_ > 0 ? passed.count() / done_ : 1;
  say_(what + ", about " + clock_text((planned_ - done_) * pace) + " left");
}

}  // namespace pinion::bench
