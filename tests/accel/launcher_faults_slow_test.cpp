// SPDX-License-Identifier: Apache-2.0
// Ranks that hang, and ranks that crash: what their peers and the launcher make of it.
#include <nlohmann/json.hpp>

#include "launcher_testing.h"
#include "pinion/runtime/json.h"

namespace pinion {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class LauncherFaultsTest : public LauncherTest {
 protected:
  // Sanitizers have handlers of their own, which record_crashes() lets be.
  const std::vector<std::string> ours_ = {
      "ASAN_OPTIONS=handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0",
      "TSAN_OPTIONS=handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0",
      "UBSAN_OPTIONS=handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0"};
};

TEST_F(LauncherFaultsTest, ARankThatKeepsTheOthersWaitingIsNamed) {
  const struct {
    const char *how, *state, *end;
  } rows[] = {
      {"loop", "was running", "ended by signal 3 \\(SIGQUIT\\) \\(signal\\): sent by process"},
      {"stop", "was stopped by a signal", "ended by signal 3 \\(SIGQUIT\\) \\(signal\\): sent by"},
      {"deaf", "was running", "ended by signal 9 \\(SIGKILL\\)"}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.how);
    const Result r = run({"--num_processes=3"}, {"hang", row.how}, ours_);
    EXPECT_EQ(r.code, 81) << r.err;
    // The peers name who is missing and the last calls of both sides …
    for (const char* rank : {"0", "2"})
      EXPECT_THAT(r.err, ContainsRegex(std::string("rank ") + rank +
                                       "\\] launch_probe: shm group: rank [02] waited 1000 ms in "
                                       "all_reduce\\(sum, f32, 3\\), its call 2, for rank 1; .*"
                                       "rank 0: #2 all_reduce.*rank 1: #1 barrier\\(\\) took"));
    // … and the launcher the one who is to blame.
    EXPECT_THAT(
        r.err,
        ContainsRegex(std::string("pinion launch: rank 1 \\(pid [0-9]+\\) kept others "
                                  "waiting too long: it ") +
                      row.state + "; its last call was #1 barrier\\(\\) took .*; it " + row.end));
    EXPECT_TRUE(nobody_is_left());
  }
}

// The same of a program that knows nothing of the test: its timeout is set from outside.
TEST_F(LauncherFaultsTest, AStoppedTrainingRankIsKilled) {
  program_ = in_build("accelerate_train");
  const pid_t launcher =
      start({"--cpu", "--num_processes=2"}, {"--output_dir=" + dir_ / "run", "--epochs=1000000"},
            "run", {"PINION_TIMEOUT=1"});
  while (text("run.out").find("Epoch 2/") == std::string::npos) usleep(1000);
  const pid_t victim = rank_pid(launcher, 1);
  ASSERT_GT(victim, 0);
  kill(victim, SIGSTOP);
  const Result r = finish(launcher);
  EXPECT_EQ(r.code, 81);
  EXPECT_THAT(r.err, AllOf(HasSubstr("[rank 0] accelerate_train: shm group: rank 0 waited 1000 ms"),
                           HasSubstr("pinion launch: rank 1 (pid " + std::to_string(victim) +
                                     ") kept others waiting too long: it was stopped")));
  EXPECT_TRUE(nobody_is_left());
}

// With all ranks stopped none waits for another, so no timeout tells of it.
TEST_F(LauncherFaultsTest, StoppedRanksAreReported) {
  const pid_t launcher = start(kTwo, {"wait", dir_.path()});
  pids(2);  // they are ready
  std::string stopped[2], woken[2];
  for (int r = 0; r < 2; ++r) {
    const pid_t rank = rank_pid(launcher, r);
    const std::string who =
        "launch: rank " + std::to_string(r) + " (process " + std::to_string(rank) + ") ";
    stopped[r] = who + "was stopped by a signal";
    woken[r] = who + "goes on";
    kill(rank, SIGSTOP);
  }
  for (int r = 0; r < 2; ++r)
    while (text("run.err").find(stopped[r]) == std::string::npos) usleep(1000);
  for (int r = 0; r < 2; ++r) {
    kill(rank_pid(launcher, r), SIGCONT);
    while (text("run.err").find(woken[r]) == std::string::npos) usleep(1000);
  }
  kill(launcher, SIGTERM);
  EXPECT_EQ(finish(launcher).code, 75);
  EXPECT_TRUE(nobody_is_left());
}

TEST_F(LauncherFaultsTest, ACrashLeavesItsTrace) {
  const struct {
    const char *how, *name, *what;
    int signal;
  } rows[] = {{"segv", "SIGSEGV", "at address 0x10", SIGSEGV},
              {"overflow", "SIGSEGV", "at address 0x", SIGSEGV},  // of the stack
              {"bus", "SIGBUS", "at address 0x", SIGBUS},
              {"fpe", "SIGFPE", "at address 0x", SIGFPE},
              {"ill", "SIGILL", "at address 0x", SIGILL},
              {"abort", "SIGABRT", "raised by itself", SIGABRT}};
  for (const auto& row : rows) {
    SCOPED_TRACE(row.how);
    const Result r = run(kTwo, {"crash", row.how, "1"}, ours_);
    EXPECT_EQ(r.code, 128 + row.signal);
    const std::string line = std::string(") ended by signal ") + std::to_string(row.signal) + " (" +
                             row.name + ") (signal): " + row.what;
    EXPECT_THAT(r.err, AllOf(HasSubstr(line), HasSubstr("; its trace: above, on its standard")));
    EXPECT_THAT(r.err, AllOf(HasSubstr(std::string("[rank 1] ") + row.name + " " + row.what),
                             HasSubstr("[rank 1] " + in_build("launch_probe") + "(")));
    EXPECT_TRUE(nobody_is_left());
  }
}

TEST_F(LauncherFaultsTest, RecordsOfErrorsAreKeptWithTheLogs) {
  const auto record_of = [&](const std::string& logs, const std::string& rank) {
    const std::string run = dir_ / logs + "/" + list_dir(dir_ / logs).at(0);
    return run + "/attempt_0/" + rank + "/error.json";
  };
  const Result crash =
      run({"--num_processes=2", "--log_dir", dir_ / "a"}, {"crash", "segv", "1"}, ours_);
  const std::string file = record_of("a", "1");
  EXPECT_THAT(crash.err, HasSubstr("; its trace: " + file + "\n"));
  const nlohmann::json record = parse_json(read_file(file, 1 << 16), file);
  EXPECT_EQ(record.at("code"), 139);
  EXPECT_EQ(record.at("class"), "signal");
  EXPECT_EQ(record.at("rank"), 1);
  EXPECT_THAT(record.at("message").get<std::string>(),
              HasSubstr("at address 0x10 in launch_probe("));
  ASSERT_GE(record.at("backtrace").size(), 3u);  // crash(), run(), …, main()
  for (const auto& frame : record.at("backtrace"))
    EXPECT_THAT(frame.get<std::string>(), ContainsRegex("^/.*\\(.*\\)\\[0x[0-9a-f]+\\]$"));
  EXPECT_EQ(run({"--num_processes=2", "--log_dir", dir_ / "b"}, {"error", "74", "0"}).code, 74);
  const std::string error = record_of("b", "0");
  EXPECT_EQ(parse_json(read_file(error, 1 << 16), error).at("class"), "io");
}

}  // namespace
}  // namespace pinion
