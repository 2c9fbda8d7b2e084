// SPDX-License-Identifier: Apache-2.0
// One run of the launcher: what all attempts share, and whether there is another attempt.
#include "pinion/accel/launch/launcher.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <optional>

#include "pinion/accel/launch/attempt.h"
#include "pinion/accel/launch/environment.h"
#include "pinion/accel/launch/machines.h"
#include "pinion/dist/store/server.h"
#include "pinion/dist/store/store.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr int kFruitlessRestarts = 3;  // in a row that brought no new checkpoint

// What a user has to change first: starting again would end the same way.
bool worth_a_restart(int code) {
  for (const ErrorKind kind : {ErrorKind::usage, ErrorKind::missing, ErrorKind::preempted,
                               ErrorKind::permission, ErrorKind::config})
    if (code == static_cast<int>(kind)) return false;
  return true;
}

class Launcher {
 public:
  explicit Launcher(const LaunchPlan& plan)
      : plan_(plan), folder_(make_folder()), warden_(folder_), secret_(make_secret()) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    secret_fd_ = Fd(secret_.to_fd());
    state_.secret_fd = secret_fd_.get();
    state_.error_folder = folder_;
    open_store();
  }
  ~Launcher() { remove_folder(folder_); }
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  int run() {
    for (const std::string& note : plan_.notes) say(note);
    while (true) {
      meet_others();
      const AttemptResult result =
          Attempt(plan_, state_, signals_, warden_, machines_ ? &*machines_ : nullptr).run();
      Verdict verdict = judge(result.ends, result.stop_signal);
      if (machines_) verdict = machines_->agree(verdict, [this] { return signals_.next(); });
      if (!verdict.text.empty()) say(verdict.text);
      if (!restarts(verdict)) {
        if (machines_) machines_->part();
        return verdict.code;
      }
    }
  }

 private:
  void say(std::string_view text) const {
    if (plan_.quiet) return;
    const std::string line = cat({"pinion launch: ", text, "\n"});
    if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nobody is there to read it
  }

  static std::string make_folder() {
    const char* tmp = std::getenv("TMPDIR");
    std::string pattern = cat({tmp && *tmp ? tmp : "/tmp", "/pinion-launch-XXXXXX"});
    PINION_REQUIRE(io, mkdtemp(pattern.data()), "launch: cannot make a folder ", pattern);
    return pattern;
  }

  dist::StoreSecret make_secret() const {
    return plan_.secret_file.empty() ? dist::StoreSecret::random()
                                     : dist::StoreSecret::from_file(plan_.secret_file);
  }

  // Machine 0 hosts the store; so it outlives the ranks. It starts a thread: after the warden's
  // fork.
  void open_store() {
    const bool six = plan_.host.find(':') != plan_.host.npos;
    const std::string host = six ? "[" + plan_.host + "]" : plan_.host;
    state_.store = cat({host, ":", plan_.port});
    if (plan_.machine == 0) {
      server_.emplace(secret_, dist::StoreServer::Options{state_.store, plan_.run_id, plan_.ranks});
      state_.store = server_->address();
    }
    if (plan_.machines == 1) return;
    const SignalSource::EndsAtOnce meanwhile;  // others may come late
    machines_.emplace(plan_, state_.store, secret_);
  }

  void meet_others() {
    if (!machines_) return;
    const SignalSource::EndsAtOnce meanwhile;
    machines_->meet(state_.epoch);
  }

  // Whether the ranks are to be started again; counts it.
  bool restarts(const Verdict& verdict) {
    if (verdict.code == 0 || verdict.stop_signal != 0 || !worth_a_restart(verdict.code))
      return false;
    if (state_.epoch >= plan_.max_restarts) return false;
    fruitless_ = made_progress() ? 0 : fruitless_ + 1;
    if (fruitless_ > kFruitlessRestarts) {
      say(cat({"stopped: ", kFruitlessRestarts, " restarts brought no new checkpoint"}));
      return false;
    }
    ++state_.epoch;
    say(cat({"restart ", state_.epoch, " of ", plan_.max_restarts}));
    return true;
  }

  // Whether this start of the ranks has saved a later step than any before it: a rank that has
  // saved one sets `checkpoint` in its store to the number of steps.
  bool made_progress() {
    dist::Store store(state_.store, secret_, plan_.run_id, cat({"ranks/", state_.epoch, "/"}));
    const std::string text = store.try_get("checkpoint").value_or("");
    int64_t step = -1;
    std::from_chars(text.data(), text.data() + text.size(), step);
    if (step <= saved_step_) return false;
    saved_step_ = step;
    return true;
  }

  const LaunchPlan& plan_;
  SignalSource signals_;  // first: nothing that is made after it is left behind
  const std::string folder_;
  Warden warden_;
  const dist::StoreSecret secret_;
  Fd secret_fd_;
  LaunchState state_;
  std::optional<dist::StoreServer> server_;
  std::optional<Machines> machines_;
  int fruitless_ = 0;
  int64_t saved_step_ = -1;
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
