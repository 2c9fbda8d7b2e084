// SPDX-License-Identifier: Apache-2.0
// Training in a process that is killed, or asked to stop, again and again: it always resumes, and
// ends with the bytes, and the metrics file, of a run that nobody disturbed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "checkpoint_testing.h"
#include "pinion/accel/signals.h"
#include "pinion/runtime/log.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

// Trains to `steps`, saving after every step, or ends early when a signal says so. Leaves the final
// bytes in DIR/result. The exit code of a process that does nothing else.
int train(const std::string& dir, int64_t steps, bool async) {
  try {
    const CpuContextGuard one_thread(1);
    const SignalGuard signals;
    TinyRun run;
    JsonlTracker metrics(dir + "/metrics.jsonl", TrackerStart::continued);
    TrackerPart metrics_part(&metrics);
    Checkpoints checkpoints({.root = dir + "/c", .keep_last = 1, .async = async});
    run.add_to(checkpoints);
    checkpoints.add("metrics", metrics_part);
    checkpoints.resume();
    while (run.steps < steps) {
      run.step();
      metrics.log({{"step", run.steps}, {"loss", run.last_loss}, {"lr", run.adam.lr()}});
      const bool stop = SignalGuard::take() == SaveRequest::save_and_exit;
      checkpoints.save(run.steps);
      if (!stop) continue;
      checkpoints.close();
      end_preempted(run.steps);
    }
    checkpoints.close();
    write_file_atomic(dir + "/result", run.bytes());
    return 0;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::preempted) log_error({"the run ended: ", e.what()});
    return e.exit_code();
  }
}

template <class F>
pid_t in_child(F f) {
  const pid_t child = fork();
  if (child == 0) _exit(f());
  return child;
}

// The exit code of the child, or 128 and the signal that killed it.
int end_of(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void expect_undisturbed(const std::string& dir, int64_t steps) {
  EXPECT_EQ(read_file(dir + "/result", 1 << 20), uninterrupted(steps).back());
  const TempDir whole;
  ASSERT_EQ(end_of(in_child([&] { return train(whole.path(), steps, true); })), 0);
  EXPECT_EQ(read_file(dir + "/metrics.jsonl", 1 << 20),
            read_file(whole / "metrics.jsonl", 1 << 20));
}

TEST(CheckpointKill, AnyMomentIsSurvived) {
  constexpr int64_t kSteps = 80;
  for (const bool async : {false, true}) {
    const TempDir dir;
    std::mt19937 random(async ? 5 : 6);
    int kills = 0;
    for (;;) {
      const pid_t child = in_child([&] { return train(dir.path(), kSteps, async); });
      if (kills < 50) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
        kill(child, SIGKILL);
      }
      const int code = end_of(child);
      kills += code == 128 + SIGKILL;
      if (code == 0) break;
      ASSERT_EQ(code, 128 + SIGKILL);
    }
    EXPECT_GT(kills, 10);
    RecordProperty(async ? "kills_async" : "kills", kills);
    expect_undisturbed(dir.path(), kSteps);
  }
}

TEST(CheckpointKill, ARequestToStopIsACheckpointAndExitCode75) {
  constexpr int64_t kSteps = 60;
  const TempDir dir;
  std::mt19937 random(7);
  int stops = 0;
  constexpr int kSignals[] = {SIGTERM, SIGUSR1, SIGINT};
  for (int i = 0;; ++i) {
    const pid_t child = in_child([&] { return train(dir.path(), kSteps, i % 2 == 0); });
    if (i < 15) {
      std::this_thread::sleep_for(std::chrono::microseconds(20'000 + random() % 20'000));
      kill(child, kSignals[i % 3]);
      if (i % 2 == 0) kill(child, SIGUSR2);  // asks for less, and changes nothing
    }
    const int code = end_of(child);
    if (code == 0) break;
    // A signal before the guard is there ends the process as it always did.
    ASSERT_TRUE(code == 75 || code == 128 + kSignals[i % 3] || code == 128 + SIGUSR2) << code;
    stops += code == 75;
  }
  EXPECT_GT(stops, 0);
  expect_undisturbed(dir.path(), kSteps);
}

// Kills the process right before call k that changes something.
class KillingFs final : public Fs {
 public:
  explicit KillingFs(int64_t k) : left_(k) {}
  int open(const std::string& path, OpenMode mode) override {
    if (mode != OpenMode::read && mode != OpenMode::directory) count();
    return base_.open(path, mode);
  }
  int open_in(int d, const std::string& name) override { return base_.open_in(d, name); }
  int lock(int fd) override { return count(), base_.lock(fd); }
  int64_t read(int fd, void* to, size_t n, int64_t at) override {
    return base_.read(fd, to, n, at);
  }
  int64_t write(int fd, const void* from, size_t n) override {
    if (left_ == 1) (void)base_.write(fd, from, n / 2);
    return count(), base_.write(fd, from, n);
  }
  int truncate(int fd, int64_t size) override { return count(), base_.truncate(fd, size); }
  int sync(int fd) override { return count(), base_.sync(fd); }
  int close(int fd) override { return count(), base_.close(fd); }
  int status(int fd, FileStatus& out) override { return base_.status(fd, out); }
  int status(const std::string& path, FileStatus& out) override { return base_.status(path, out); }
  int rename(const std::string& from, const std::string& to) override {
    return count(), base_.rename(from, to);
  }
  int rename2(const std::string& from, const std::string& to, RenameRule rule) override {
    return count(), base_.rename2(from, to, rule);
  }
  int make_dir(const std::string& path) override { return count(), base_.make_dir(path); }
  int make_private_dir(const std::string& path) override {
    return count(), base_.make_private_dir(path);
  }
  int remove_file(const std::string& path) override { return count(), base_.remove_file(path); }
  int remove_dir(const std::string& path) override { return count(), base_.remove_dir(path); }
  int list(const std::string& path, std::vector<std::string>& names) override {
    return base_.list(path, names);
  }

 private:
  void count() {
    if (--left_ == 0) raise(SIGKILL);
  }
  Fs& base_ = real_fs();
  int64_t left_;
};

// Two saves and the removal of what they replace, on the real file system.
TEST(CheckpointKill, EveryCallThatChangesAFileIsSurvived) {
  constexpr int64_t kSteps = 3;
  int64_t points = 0;
  for (int64_t k = 1;; ++k) {
    SCOPED_TRACE(k);
    ASSERT_LT(k, 1000);
    const TempDir dir;
    const int code = end_of(in_child([&] {
      KillingFs killing(k);
      const FsGuard guard(killing);
      return train(dir.path(), kSteps, false);
    }));
    if (code == 0) break;
    ASSERT_EQ(code, 128 + SIGKILL);
    ASSERT_EQ(end_of(in_child([&] { return train(dir.path(), kSteps, false); })), 0);
    ASSERT_EQ(read_file(dir / "result", 1 << 20), uninterrupted(kSteps).back());
    ++points;
  }
  EXPECT_GT(points, 80);
  RecordProperty("points", static_cast<int>(points));
}

}  // namespace
}  // namespace pinion::accel
