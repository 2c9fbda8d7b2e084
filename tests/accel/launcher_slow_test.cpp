// SPDX-License-Identifier: Apache-2.0
// pinion launch as a process: exit codes, who is named, signals, orphans, restarts, output.
#include <thread>

#include "launcher_testing.h"
#include "pinion/accel/launch/output.h"
#include "pinion/accel/launch/process.h"
#include "pinion/dist/store/socket.h"

namespace pinion {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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

// A terminal or pipe that somebody has set not to block is waited for, and loses nothing.
TEST(OutputStreamTest, WaitsForASlowReader) {
  accel::Pipe in, out;
  fcntl(out.write.get(), F_SETFL, O_NONBLOCK);
  std::string wanted, got;
  for (int i = 0; i < 2000; ++i)
    wanted += "a line of some length, number " + std::to_string(i) + "\n";
  std::thread writer([&] {
    for (std::string_view rest = wanted; !rest.empty();)
      rest.remove_prefix(static_cast<size_t>(write(in.write.get(), rest.data(), rest.size())));
    in.write.reset();
  });
  std::thread reader([&] {
    usleep(50'000);  // long enough for the pipe to be full
    char bytes[4096];
    for (ssize_t n; (n = read(out.read.get(), bytes, sizeof bytes)) > 0;)
      got.append(bytes, static_cast<size_t>(n));
  });
  accel::OutputStream stream(std::move(in.read), out.write.get(), "", "");
  while (stream.pump()) usleep(100);
  out.write.reset();
  writer.join();
  reader.join();
  EXPECT_EQ(got, wanted);
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

}  // namespace
}  // namespace pinion
