// SPDX-License-Identifier: Apache-2.0
// Launchers of several machines, by way of the store that the one of machine 0 hosts: they meet
// before each start, hear when another's ranks fail or another is told to stop, and agree on what
// the run ends with.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "pinion/accel/launch/options.h"
#include "pinion/accel/launch/verdict.h"
#include "pinion/dist/store/store.h"

namespace pinion::accel {

class Machines {
 public:
  Machines(const LaunchPlan& plan, const std::string& address, const dist::StoreSecret& secret);

  // Waits for the launchers of all machines. Throws Error: hang (who is missing), config (they were
  // started with other numbers of machines or ranks).
  void meet(int epoch);
  int fd() const { return watch_.fd(); }  // readable when there may be news
  // True when the ranks of another machine have failed, or its launcher is gone.
  bool others_failed();
  // A rank of this machine ended with an error: when, among those of all machines, counts from the
  // first call on. stop_others() makes others_failed() true elsewhere.
  void failed_here();
  void stop_others();
  // Tells the others of a signal that came here; what came to them, once each, or 0.
  // others_failed() reads the news.
  void pass_on(int signal);
  int next_signal();
  // Says that we are alive, when it is time to; others take us for dead after 10 seconds.
  void beat();
  static constexpr std::chrono::milliseconds kBeat{2000};
  // What the run ended with, of what all machines say: the cause outweighs its consequences. A
  // signal to one of them was meant for all; those that come here while others still work
  // (next_here(), 0: none) are passed on.
  Verdict agree(const Verdict& mine, const std::function<int()>& next_here);
  // Machine 0 stays until the others have heard what they asked for.
  void part();

 private:
  std::string key(std::string_view what, int machine) const;
  std::vector<std::string> keys(std::string_view what) const;

  const LaunchPlan& plan_;
  dist::Store store_, watch_;
  int epoch_ = 0;
  int64_t order_ = 0;  // of our first failure among those of all machines; 0: none
  bool lost_ = false;
  std::deque<int> signals_;  // of others, not yet asked for
  std::chrono::steady_clock::time_point next_beat_{};
};

}  // namespace pinion::accel
