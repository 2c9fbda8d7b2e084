// SPDX-License-Identifier: Apache-2.0
// One attempt of a launch: from starting all ranks of this machine until all have ended.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "pinion/accel/launch/environment.h"
#include "pinion/accel/launch/machines.h"
#include "pinion/accel/launch/output.h"
#include "pinion/accel/launch/process.h"
#include "pinion/accel/launch/verdict.h"
#include "pinion/dist/group/shm_segment.h"

namespace pinion::accel {

// The signals that a launcher takes, as a descriptor; they have their own meaning again afterwards.
class SignalSource {
 public:
  SignalSource();
  ~SignalSource();
  SignalSource(const SignalSource&) = delete;
  SignalSource& operator=(const SignalSource&) = delete;

  int fd() const { return fd_.get(); }
  int next();  // a signal that has come, or 0

  // While it lives, a signal to stop ends this process: where there are no ranks to hand it on to.
  class EndsAtOnce {
   public:
    EndsAtOnce();
    ~EndsAtOnce();
    EndsAtOnce(const EndsAtOnce&) = delete;
    EndsAtOnce& operator=(const EndsAtOnce&) = delete;
  };

 private:
  sigset_t before_;
  Fd fd_;
};

struct AttemptResult {
  std::vector<RankEnd> ends;  // in the order in which the ranks ended
  int stop_signal = 0;        // that the launcher was asked to end by, or 0
};

class Attempt {
 public:
  // Without other machines `machines` is null.
  Attempt(const LaunchPlan& plan, const LaunchState& state, SignalSource& signals, Warden& warden,
          Machines* machines);
  ~Attempt();
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  AttemptResult run();

 private:
  using Clock = std::chrono::steady_clock;
  struct Rank {
    Process process;
    std::unique_ptr<OutputStream> out, err;
    bool running = false, told = false;
    int64_t told_ns = 0;
    std::string stuck;  // RankEnd::stuck
  };

  void start(int local_rank);
  std::unique_ptr<OutputStream> stream(int local_rank, int which, SpawnRequest& request,
                                       std::vector<Fd>& ours);
  void handle(uint64_t tag);
  void hear_machines();
  void hear_signal(int signal);
  void take_end(int local_rank);
  void report_stops();
  void take_signal(int signal);
  void after_end(const RankEnd& end);
  bool find_stuck();
  std::string what_it_does(int local_rank) const;
  void watch_deadlines();
  int milliseconds_to_deadline() const;
  bool any_running() const;
  void send(int signal);
  void tell_to_stop(int signal);  // because of another rank
  void clean_up();

  const LaunchPlan& plan_;
  LaunchState state_;
  SignalSource& signals_;
  Warden& warden_;
  Machines* machines_;
  std::shared_ptr<dist::ShmSegment> shared_;  // of the ranks, all on this machine; or null
  Fd epoll_;
  std::vector<Rank> ranks_;
  AttemptResult result_;
  std::vector<int> forwarded_;  // signals, each once
  std::optional<Clock::time_point> stop_at_, kill_at_;
};

}  // namespace pinion::accel
