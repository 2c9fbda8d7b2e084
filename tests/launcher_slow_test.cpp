// SPDX-License-Identifier: Apache-2.0
// pinion launch as a process: exit codes, who is named, signals, orphans, restarts, output, and
// launchers of two machines.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "pinion/dist/store/socket.h"
#include "pinion/tests/fs_testing.h"
#include "pinion/tests/paths.h"

namespace pinion {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class LauncherTest : public testing::Test {
 protected:
  struct Result {
    int code = -1;  // 128 + n for signal n
    std::string out, err;
  };

  LauncherTest() { prctl(PR_SET_CHILD_SUBREAPER, 1); }  // orphans come to us, to be counted

  // pinion launch [flags…] launch_probe [arguments…]; the descriptors of its output are files.
  pid_t start(std::vector<std::string> flags, const std::vector<std::string>& arguments,
              const std::string& name = "run", std::vector<std::string> variables = {}) const {
    flags.insert(flags.begin(), {in_build("pinion"), "launch"});
    flags.push_back(in_build("launch_probe"));
    flags.insert(flags.end(), arguments.begin(), arguments.end());
    variables.push_back("PATH=/usr/bin:/bin");
    variables.push_back("HOME=" + dir_.path());
    variables.push_back("TMPDIR=" + dir_.path());
    const auto pointers = [](std::vector<std::string>& strings) {
      std::vector<char*> out;
      for (std::string& s : strings) out.push_back(s.data());
      out.push_back(nullptr);
      return out;
    };
    const std::vector<char*> argv = pointers(flags), env = pointers(variables);
    const std::string out = dir_ / (name + ".out"), err = dir_ / (name + ".err");
    const std::string in = dir_ / "stdin";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, in.c_str(), O_RDONLY | O_CREAT, 0600);
    posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), env.data()), 0);
    posix_spawn_file_actions_destroy(&actions);
    return child;
  }
  Result finish(pid_t child, const std::string& name = "run") const {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            read_file(dir_ / (name + ".out"), 1 << 24), read_file(dir_ / (name + ".err"), 1 << 24)};
  }
  Result run(const std::vector<std::string>& flags, const std::vector<std::string>& arguments,
             std::vector<std::string> variables = {}) const {
    return finish(start(flags, arguments, "run", std::move(variables)));
  }

  // Of `ranks` ranks in mode wait or stubborn, once they are ready: theirs and their children's.
  std::vector<pid_t> pids(int ranks) const {
    std::vector<pid_t> all;
    for (int r = 0; r < ranks; ++r) {
      const std::string path = dir_ / ("pids_" + std::to_string(r));
      while (!exists(path)) usleep(1000);
      const std::string text = read_file(path, 100);
      all.push_back(std::stoi(text));
      all.push_back(std::stoi(text.substr(text.find(' '))));
    }
    return all;
  }
  // Whether the process is gone within ten seconds: nobody's time is measured, only patience.
  static bool gone(pid_t pid) {
    for (int i = 0; i < 10'000; ++i) {
      while (waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      if (kill(pid, 0) != 0) return true;
      usleep(1000);
    }
    return false;
  }
  static std::string sorted_lines(const std::string& text) {
    std::vector<std::string> lines;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      lines.push_back(text.substr(at, end - at) + "\n");
      at = end + 1;
    }
    std::sort(lines.begin(), lines.end());
    std::string out;
    for (const std::string& line : lines) out += line;
    return out;
  }
  bool folder_is_clean() const {
    for (const std::string& name : list_dir(dir_.path()))
      if (name.starts_with("pinion-launch-")) return false;
    return true;
  }

  TempDir dir_;
};

const std::vector<std::string> kTwo = {"--num_processes", "2"};

TEST_F(LauncherTest, RanksKnowWhoTheyAre) {
  const Result two = run(kTwo, {"env", "RANK", "PINION_WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK",
                                "PINION_EPOCH", "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"});
  EXPECT_EQ(two.code, 0) << two.err;
  EXPECT_EQ(sorted_lines(two.out),
            "[rank 0] ACCELERATE_MIXED_PRECISION=-\n[rank 0] GROUP_RANK=0\n"
            "[rank 0] LOCAL_RANK=0\n[rank 0] MASTER_ADDR=127.0.0.1\n[rank 0] PINION_EPOCH=0\n"
            "[rank 0] PINION_WORLD_SIZE=2\n[rank 0] RANK=0\n"
            "[rank 1] ACCELERATE_MIXED_PRECISION=-\n[rank 1] GROUP_RANK=0\n"
            "[rank 1] LOCAL_RANK=1\n[rank 1] MASTER_ADDR=127.0.0.1\n[rank 1] PINION_EPOCH=0\n"
            "[rank 1] PINION_WORLD_SIZE=2\n[rank 1] RANK=1\n");
  EXPECT_TRUE(folder_is_clean());
  const Result one = run({}, {"env", "RANK", "WORLD_SIZE"});
  EXPECT_EQ(one.out, "RANK=0\nWORLD_SIZE=1\n");  // one rank: no prefix
}

TEST_F(LauncherTest, ValuesReachRanksAsTheyAre) {
  const Result r = run({"--env", "A=$(touch pwned)`id`; x", "--env=B=two\nlines", "--env",
                        "C=", "--gradient-accumulation-steps=4", "--mixed_precision", "bf16"},
                       {"env", "A", "B", "C", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
                        "ACCELERATE_MIXED_PRECISION"});
  EXPECT_EQ(r.out,
            "A=$(touch pwned)`id`; x\nB=two\\nlines\nC=\n"
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4\nACCELERATE_MIXED_PRECISION=bf16\n");
}

TEST_F(LauncherTest, OnlyListedVariablesArePassedOn) {
  const std::vector<std::string> variables = {"LD_PRELOAD=/nowhere/evil.so",
                                              "MY_SETTING=1",
                                              "PINION_LOG=warn",
                                              "PINION_RANK=abc",
                                              "RANK=5",
                                              "ACCELERATE_MIXED_PRECISION=fp16"};
  const std::vector<std::string> asked = {"env",        "LD_PRELOAD", "MY_SETTING",
                                          "PINION_LOG", "RANK",       "ACCELERATE_MIXED_PRECISION"};
  // The launcher itself is started with it: the loader says what it thinks of it, too.
  const Result r = run({}, asked, variables);
  EXPECT_EQ(r.out,
            "LD_PRELOAD=-\nMY_SETTING=-\nPINION_LOG=warn\nRANK=0\n"
            "ACCELERATE_MIXED_PRECISION=fp16\n");
  EXPECT_THAT(r.err, HasSubstr("LD_PRELOAD is not passed on to ranks"));
  EXPECT_THAT(run({"--allow_env", "MY_*"}, asked, variables).out, HasSubstr("MY_SETTING=1"));
  EXPECT_THAT(run({"--mixed_precision=no"}, asked, variables).out,
              HasSubstr("ACCELERATE_MIXED_PRECISION=no\n"));
}

TEST_F(LauncherTest, TheFirstToFailIsNamedAndItsCodeReturned) {
  const Result code = run({"--num_processes", "3"}, {"exit", "7", "1"});
  EXPECT_EQ(code.code, 7);
  EXPECT_THAT(code.err,
              testing::MatchesRegex("pinion launch: rank 1 \\(pid [0-9]+\\) ended with code 7\n"));
  const Result error = run(kTwo, {"error", "78", "1"});
  EXPECT_EQ(error.code, 78);
  EXPECT_THAT(error.err, AllOf(HasSubstr("[rank 1] launch_probe: something is wrong\n"),
                               HasSubstr(") ended with code 78 (config): something is wrong\n")));
  EXPECT_EQ(run(kTwo, {"exit", "75", "0"}).code, 75);
  const Result quiet = run({"-q", "--num_processes=2"}, {"exit", "3", "0"});
  EXPECT_EQ(quiet.code, 3);
  EXPECT_EQ(quiet.err, "");
}

// The others fail the moment they see the victim gone, or even before it is: 20 times each.
TEST_F(LauncherTest, ACauseIsToldFromItsConsequences) {
  const struct {
    const char* how;
    int code;
    const char* text;
  } rows[] = {{"signal", 137, "ended by signal 9 (SIGKILL); last lines: about to fail\n"},
              {"code", 7, "ended with code 7; last lines: about to fail\n"},
              {"late", 7, "ended with code 7; last lines: about to fail\n"}};
  for (const auto& row : rows)
    for (int i = 0; i < 20; ++i) {
      const std::string victim = std::to_string(i % 4);
      const Result r = run({"--num_processes", "4"}, {"cause", row.how, dir_.path(), victim});
      EXPECT_EQ(r.code, row.code) << row.how;
      EXPECT_THAT(
          r.err, AllOf(HasSubstr("pinion launch: rank " + victim + " (pid "), HasSubstr(row.text)));
      remove_file(dir_ / "victim");
    }
}

TEST_F(LauncherTest, NothingIsLeftWhateverEndsTheLauncher) {
  for (const int signal : {SIGKILL, SIGTERM, SIGUSR1, SIGHUP, SIGINT})
    for (const char* mode : {"wait", "stubborn"}) {
      if (mode == std::string("stubborn") && signal == SIGUSR1) continue;  // asks for no end
      const TempDir dir;
      const pid_t launcher = start({"--num_processes=2", "--grace_period=1"}, {mode, dir.path()});
      std::vector<pid_t> all;
      for (int r = 0; r < 2; ++r) {
        const std::string path = dir / ("pids_" + std::to_string(r));
        while (!exists(path)) usleep(1000);
        const std::string text = read_file(path, 100);
        all.push_back(std::stoi(text));
        all.push_back(std::stoi(text.substr(text.find(' '))));
      }
      kill(launcher, signal);
      const Result result = finish(launcher);
      for (const pid_t pid : all) EXPECT_TRUE(gone(pid)) << mode << " after signal " << signal;
      for (int i = 0; i < 5000 && !folder_is_clean(); ++i) usleep(1000);
      EXPECT_TRUE(folder_is_clean());
      const bool stubborn = mode == std::string("stubborn");
      const int stopped = signal == SIGTERM || signal == SIGUSR1 ? 75 : 128 + signal;
      EXPECT_EQ(result.code, signal == SIGKILL ? 137
                             : stubborn        ? 128 + signal
                                               : stopped)
          << mode << " after signal " << signal << "\n"
          << result.err;
    }
}

TEST_F(LauncherTest, SignalsAreForwardedOnce) {
  const pid_t launcher = start(kTwo, {"wait", dir_.path()});
  pids(2);
  const auto heard = [&] {
    const std::string path = dir_ / "signals";
    return exists(path) ? sorted_lines(read_file(path, 1000)) : "";
  };
  kill(launcher, SIGUSR2);
  while (heard() != "0:12\n1:12\n") usleep(1000);
  kill(launcher, SIGUSR2);
  kill(launcher, SIGUSR1);
  EXPECT_EQ(finish(launcher).code, 75);
  EXPECT_EQ(heard(), "0:10\n0:12\n1:10\n1:12\n");
}

TEST_F(LauncherTest, ASecondInterruptIsImmediate) {
  const pid_t launcher = start(kTwo, {"stubborn", dir_.path()});
  pids(2);
  kill(launcher, SIGINT);
  while (!exists(dir_ / "signals") || read_file(dir_ / "signals", 1000).size() < 8) usleep(1000);
  kill(launcher, SIGINT);
  EXPECT_EQ(finish(launcher).code, 130);
}

TEST_F(LauncherTest, RestartsAreCountedAndEnd) {
  const auto count = [](const std::string& text, const std::string& what) {
    int n = 0;
    for (size_t at = 0; (at = text.find(what, at)) != text.npos; ++at) ++n;
    return n;
  };
  const Result two = run({"--num_processes=2", "--max_restarts=2"}, {"exit", "7", "1"});
  EXPECT_EQ(two.code, 7);
  EXPECT_EQ(count(two.err, "ended with code 7"), 3);
  EXPECT_THAT(two.err, HasSubstr("restart 2 of 2"));
  const Result loop = run({"--num_processes=2", "--max_restarts=9"}, {"exit", "7", "1"});
  EXPECT_EQ(count(loop.err, "ended with code 7"), 4);
  EXPECT_THAT(loop.err, HasSubstr("stopped: 3 restarts brought no new checkpoint"));
  // As long as each start saves a checkpoint it is not fruitless.
  const Result saving = run({"--max_restarts=5"}, {"save", dir_ / "run", "7"});
  EXPECT_EQ(count(saving.err, "ended with code 7"), 6) << saving.err;
  const Result config = run({"--num_processes=2", "--max_restarts=9"}, {"error", "78", "0"});
  EXPECT_EQ(config.code, 78);
  EXPECT_THAT(config.err, Not(HasSubstr("restart")));
  const Result epoch = run({"--max_restarts=1"}, {"env", "PINION_EPOCH"});
  EXPECT_EQ(epoch.out, "PINION_EPOCH=0\n");
}

TEST_F(LauncherTest, OutputComesInWholeLinesAndIntoFiles) {
  const Result r = run({"--num_processes=3", "--log_dir", dir_ / "logs"}, {"lines", "200"});
  std::string expected;
  std::vector<std::string> lines;
  for (int rank = 0; rank < 3; ++rank)
    for (int i = 0; i < 200; ++i)
      expected += "[rank " + std::to_string(rank) + "] out " + std::to_string(i) + "\n";
  EXPECT_EQ(sorted_lines(r.out), sorted_lines(expected));
  const std::string run_folder = dir_ / "logs/" + list_dir(dir_ / "logs").at(0);
  std::string out, err;
  for (int i = 0; i < 200; ++i)
    out += "out " + std::to_string(i) + "\n", err += "err " + std::to_string(i) + "\n";
  EXPECT_EQ(read_file(run_folder + "/attempt_0/2/stdout.log", 1 << 20), out);
  EXPECT_EQ(read_file(run_folder + "/attempt_0/0/stderr.log", 1 << 20), err);
  const Result some =
      run({"--num_processes=2", "--log_dir", dir_ / "some", "-t", "0:1,1:2"}, {"lines", "3"});
  EXPECT_EQ(some.code, 0);
  const std::string second = dir_ / "some/" + list_dir(dir_ / "some").at(0) + "/attempt_0/";
  EXPECT_EQ(list_dir(second + "0"), std::vector<std::string>{"stdout.log"});
  EXPECT_EQ(list_dir(second + "1"), std::vector<std::string>{"stderr.log"});
}

TEST_F(LauncherTest, InputGoesToRankZero) {
  write_file_atomic(dir_ / "stdin", "one\ntwo\n");
  EXPECT_EQ(sorted_lines(run(kTwo, {"read"}).out),
            "[rank 0] end\n[rank 0] one\n[rank 0] two\n[rank 1] end\n");
  EXPECT_EQ(run({}, {"read"}).out, "one\ntwo\nend");
}

TEST_F(LauncherTest, APortInUseIsSaidAtOnce) {
  const dist::Socket taken = dist::listen_on("127.0.0.1:0");
  const std::string port = std::to_string(dist::port_of(dist::local_address(taken)));
  const Result r = run({"--main_process_port", port}, {"env"});
  EXPECT_EQ(r.code, 78);
  EXPECT_THAT(r.err,
              HasSubstr("cannot listen on '127.0.0.1:" + port + "': Address already in use"));
}

class MachinesTest : public LauncherTest {
 protected:
  MachinesTest() {
    secret_ = dir_ / "secret";
    write_file_atomic(secret_, std::string(40, 's'));
    chmod(secret_.c_str(), 0600);
    port_ = std::to_string(dist::port_of(dist::local_address(dist::listen_on("127.0.0.1:0"))));
  }
  pid_t machine(int rank, const std::vector<std::string>& arguments,
                std::vector<std::string> more = {}) const {
    more.insert(more.begin(),
                {"--num_machines=2", "--num_processes=4", "--main_process_ip=127.0.0.1",
                 "--main_process_port=" + port_, "--machine_rank=" + std::to_string(rank)});
    return start(more, arguments, "machine" + std::to_string(rank),
                 {"PINION_RDZV_SECRET_FILE=" + secret_});
  }
  Result end_of(int rank, pid_t child) const {
    return finish(child, "machine" + std::to_string(rank));
  }

  std::string secret_, port_;
};

TEST_F(MachinesTest, MeetWhoeverComesFirst) {
  const std::vector<std::string> env = {"env",        "RANK",        "LOCAL_RANK",   "WORLD_SIZE",
                                        "GROUP_RANK", "MASTER_PORT", "PINION_SHM_FD"};
  const pid_t second = machine(1, env);
  usleep(30'000);
  const Result a = end_of(0, machine(0, env)), b = end_of(1, second);
  EXPECT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(b.code, 0) << b.err;
  EXPECT_EQ(sorted_lines(b.out),
            "[rank 2] GROUP_RANK=1\n[rank 2] LOCAL_RANK=0\n[rank 2] MASTER_PORT=" + port_ +
                "\n[rank 2] PINION_SHM_FD=-\n[rank 2] RANK=2\n[rank 2] WORLD_SIZE=4\n" +
                "[rank 3] GROUP_RANK=1\n[rank 3] LOCAL_RANK=1\n[rank 3] MASTER_PORT=" + port_ +
                "\n[rank 3] PINION_SHM_FD=-\n[rank 3] RANK=3\n[rank 3] WORLD_SIZE=4\n");
}

TEST_F(MachinesTest, AFailureIsEverybodys) {
  for (const std::string victim : {"0", "3"}) {
    const pid_t a = machine(0, {"cause", "signal", dir_.path(), victim});
    const pid_t b = machine(1, {"cause", "signal", dir_.path(), victim});
    for (const Result& r : {end_of(0, a), end_of(1, b)}) {
      EXPECT_EQ(r.code, 137) << r.err;
      EXPECT_THAT(r.err, HasSubstr(": rank " + victim + " (pid "));
    }
    remove_file(dir_ / "victim");
  }
}

TEST_F(MachinesTest, AMachineThatDiesIsALostPeer) {
  const pid_t a = machine(0, {"wait", dir_.path()}), b = machine(1, {"wait", dir_.path()});
  const std::vector<pid_t> all = pids(4);
  kill(a, SIGKILL);  // and the store with it
  const Result r = end_of(1, b);
  EXPECT_EQ(r.code, 76) << r.err;
  end_of(0, a);
  for (const pid_t pid : all) EXPECT_TRUE(gone(pid));
}

TEST_F(MachinesTest, WrongOnesAreToldWhy) {
  const pid_t a = machine(0, {"env"}, {"--rdzv_conf=timeout=2"});
  const Result other_run = end_of(1, machine(1, {"env"}, {"--rdzv_conf=run_id=other"}));
  EXPECT_EQ(other_run.code, 77);
  EXPECT_THAT(other_run.err, HasSubstr("expected run 'other', got run 'pinion'"));
  const std::string wrong = dir_ / "wrong";
  write_file_atomic(wrong, std::string(40, 'w'));
  chmod(wrong.c_str(), 0600);
  const Result stranger = end_of(1, machine(1, {"env"}, {"--rdzv_secret_file", wrong}));
  EXPECT_EQ(stranger.code, 77);
  const Result waited = end_of(0, a);
  EXPECT_EQ(waited.code, 81);
  EXPECT_THAT(waited.err, HasSubstr("no launcher of machine 1 came within 2 s"));
}

}  // namespace
}  // namespace pinion
