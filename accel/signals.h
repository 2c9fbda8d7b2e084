// SPDX-License-Identifier: Apache-2.0
// Requests to save that come as signals: SIGTERM, SIGUSR1 and the first SIGINT ask for a checkpoint
// and the end of the program with exit code 75 (Error of kind preempted), SIGUSR2 for a checkpoint
// only. A second SIGINT ends the program at once.
#pragma once

#include <cstdint>

#include "pinion/dist/process_group.h"

namespace pinion::accel {

enum class SaveRequest : uint8_t { none, save, save_and_exit };

// Handles the signals while it lives; then the handlers of before are back. One at a time.
class SignalGuard {
 public:
  SignalGuard();
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

  // The strongest request since the last take(), of this process alone. A request to exit stays.
  static SaveRequest pending();
  static SaveRequest take();
  // The strongest request of all ranks, who must call this together: a few microseconds a step.
  // `device`: where the group's tensors live.
  static SaveRequest take_agreed(dist::ProcessGroup& group, Device device = {});
};

// For a loop that has saved: throws Error (preempted) that names the step.
[[noreturn]] void end_preempted(int64_t step);

}  // namespace pinion::accel
