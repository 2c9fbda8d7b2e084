// SPDX-License-Identifier: Apache-2.0
// One run of the launcher: what all attempts share, and whether there is another attempt.
#include "pinion/accel/launcher.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "pinion/accel/launch_attempt.h"
#include "pinion/accel/launch_environment.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

void say(std::string_view text) {
  const std::string line = cat({"pinion launch: ", text, "\n"});
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody is there to read it
}

// What a user has to change first: starting again would end the same way.
bool worth_a_restart(int code) {
  for (const ErrorKind kind : {ErrorKind::usage, ErrorKind::missing, ErrorKind::preempted,
                               ErrorKind::permission, ErrorKind::config})
    if (code == static_cast<int>(kind)) return false;
  return true;
}

class Launcher {
 public:
  explicit Launcher(const LaunchPlan& plan) : plan_(plan) {}
  ~Launcher() { remove_folder(folder_); }
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  int run() {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    make_folder();
    SignalSource signals;
    Warden warden(folder_);
    if (!plan_.quiet)
      for (const std::string& note : plan_.notes) say(note);
    LaunchState state{.error_folder = folder_};
    while (true) {
      Attempt attempt(plan_, state, signals, warden);
      const AttemptResult result = attempt.run();
      const int code = exit_code(result.ends, result.stop_signal);
      const RankEnd* culprit = first_culprit(result.ends);
      const bool again = culprit && result.stop_signal == 0 && worth_a_restart(code) &&
                         state.epoch < plan_.max_restarts;
      if (culprit && !plan_.quiet) say(describe(*culprit));
      if (!again) return code;
      ++state.epoch;
      if (!plan_.quiet) say(cat({"restart ", state.epoch, " of ", plan_.max_restarts}));
    }
  }

 private:
  void make_folder() {
    const char* tmp = std::getenv("TMPDIR");
    std::string pattern = cat({tmp && *tmp ? tmp : "/tmp", "/pinion-launch-XXXXXX"});
    PINION_REQUIRE(io, mkdtemp(pattern.data()), "launch: cannot make a folder ", pattern);
    folder_ = pattern;
  }

  const LaunchPlan& plan_;
  std::string folder_;
};

}  // namespace

int launch(const LaunchPlan& plan) { return Launcher(plan).run(); }

std::string dry_run(const LaunchPlan& plan) {
  std::string text;
  const LaunchState state{.store = cat({plan.host, ":", plan.port})};
  for (int r = 0; r < plan.local_ranks; ++r) {
    text += cat({"rank ", plan.first_rank + r, " of ", plan.ranks, ":",
                 "\n  program: ", escaped(plan.program), "\n  argv:"});
    for (const std::string& argument : plan.argv) text += " " + quoted(argument, 1 << 20);
    text += "\n";
    for (const auto& [name, value] : rank_environment(plan, state, r))
      text += "  " + shown_variable(name, value) + "\n";
  }
  return text;
}

}  // namespace pinion::accel
