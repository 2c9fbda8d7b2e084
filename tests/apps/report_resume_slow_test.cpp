// SPDX-License-Identifier: Apache-2.0
// A training run on two ranks that is killed, whole or one rank of it, and resumed, ends with the
// very bytes of the run that nobody disturbed. So does one that --max_steps cut into pieces.
#include <gmock/gmock.h>
#include <signal.h>

#include <thread>

#include "report_testing.h"

namespace pinion::report {
namespace {

using testing::HasSubstr;

class ReportResume : public ReportPrograms {
 protected:
  static std::vector<pid_t> ranks_of(pid_t launcher) {
    const std::string id = std::to_string(launcher);
    std::istringstream list(read_file("/proc/" + id + "/task/" + id + "/children", 1 << 16));
    std::vector<pid_t> ranks;  // among them is who keeps the store
    for (pid_t child = 0; list >> child;)
      if (read_file("/proc/" + std::to_string(child) + "/cmdline", 1 << 16)
              .starts_with(program("train_with_accelerate")))
        ranks.push_back(child);
    return ranks;
  }
  void wait_for(const char* line) const {
    while (text("stdout").find(line) == std::string::npos)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  void expect_same(const std::string& a, const std::string& b) const {
    for (const char* file : {"/metrics.jsonl", "/model_best/model.safetensors"})
      EXPECT_EQ(text(a + file), text(b + file)) << b << file;
  }
};

TEST_F(ReportResume, AfterSigkillTheBytesAreThoseOfTheUninterruptedRun) {
  const std::vector<std::string> flags = {"--epochs=4", "--batch_size=2"};
  std::vector<std::string> resumed = flags;
  resumed.push_back("--resume");
  ASSERT_EQ(run(launched(2, command("whole", flags))).code, 0);
  for (int round = 0; round < 3; ++round) {
    const std::string name = "killed" + std::to_string(round);
    const pid_t launcher = start(launched(2, command(name, flags)));
    wait_for("Epoch 2/4");  // the first epoch's checkpoint is there, the second's on its way
    std::this_thread::sleep_for(std::chrono::milliseconds(15 * round));
    const std::vector<pid_t> ranks = ranks_of(launcher);
    ASSERT_EQ(ranks.size(), 2U);
    kill(round == 0 ? launcher : ranks[static_cast<size_t>(round - 1)], SIGKILL);
    EXPECT_EQ(wait(launcher).code, 128 + SIGKILL);
    const Result rest = run(launched(2, command(name, resumed)));
    ASSERT_EQ(rest.code, 0) << rest.err;
    EXPECT_THAT(rest.out, testing::Not(HasSubstr("Epoch 1/4")));
    expect_same("whole", name);
  }
}

TEST_F(ReportResume, MaxStepsEndsARunThatLaterGoesOn) {
  // 24 studies, 2 ranks, batch 2: six updates an epoch.
  const std::vector<std::string> flags = {"--epochs=2", "--batch_size=2", "--max_eval_samples=3"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), flags.begin(), flags.end());
    return more;
  };
  ASSERT_EQ(run(launched(2, command("whole", flags))).code, 0);
  const Result first = run(launched(2, command("parts", with({"--max_steps=4"}))));
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("24 studies to train on, 3 and 3 to test"));
  EXPECT_THAT(first.out, testing::Not(HasSubstr("Epoch 2/2")));
  const Result other = run(launched(2, command("parts", with({"--resume", "--gamma=0.5"}))));
  EXPECT_EQ(other.code, 80);
  EXPECT_THAT(other.err, HasSubstr("gamma: 0.1 there, 0.5 here\n"));
  const Result allowed =
      run(launched(2, command("parts", with({"--resume", "--gamma=0.5",
                                             "--allow_config_change=gamma", "--max_steps=4"}))));
  EXPECT_EQ(allowed.code, 0) << allowed.err;
  const Result rest = run(launched(2, command("parts", with({"--resume"}))));
  ASSERT_EQ(rest.code, 0) << rest.err;
  const auto whole = losses("whole"), parts = losses("parts");
  ASSERT_EQ(whole.size(), 2U);
  ASSERT_EQ(parts.size(), 3U);  // the epoch that was cut is there twice
  EXPECT_EQ(parts[1], whole[0]);
  EXPECT_EQ(parts[2], whole[1]);
}

}  // namespace
}  // namespace pinion::report
