// SPDX-License-Identifier: Apache-2.0
// Training on two ranks under the launcher, saving and rotating checkpoints, while a rank or the
// launcher is killed at random: nobody is left, the code and the name are right, and the run that
// resumes ends with the bytes of one that nobody disturbed. PINION_KILLS says how often, of each.
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "launcher_testing.h"

namespace pinion {
namespace {

using testing::HasSubstr;
using Clock = std::chrono::steady_clock;

class LauncherKillTest : public LauncherTest {
 protected:
  // What has been done to the run when it is disturbed.
  enum class Moment : uint8_t { any, saving, rotating };

  LauncherKillTest() {
    program_ = in_build("accelerate_train");
    const auto begin = Clock::now();
    whole_ = result_of("whole");
    length_ = Clock::now() - begin;
    if (const char* text = std::getenv("PINION_KILLS"))
      std::from_chars(text, text + std::strlen(text), kills_);
  }

  pid_t train(const std::string& run) const {
    return start({"--cpu", "--num_processes=2"},
                 {"--output_dir=" + dir_ / run, "--epochs=6", "--save_every=1", "--resume"});
  }

  // All that a run leaves, once it has been brought to its end.
  std::string result_of(const std::string& run) const {
    const Result end = finish(train(run));
    EXPECT_EQ(end.code, 0) << end.err;
    std::string all;
    const std::string root = dir_ / run + "/checkpoints";
    for (const std::string& step : list_dir(root))
      if (step.starts_with("step-"))
        for (const std::string& name : list_dir(root + "/" + step))
          if (name.ends_with(".safetensors"))
            all += step + "/" + name + ":" + contents(root + "/" + step + "/" + name);
    return all + contents(dir_ / run + "/model.safetensors") +
           contents(dir_ / run + "/metrics.jsonl");
  }

  bool holds(const std::string& run, const char* prefix) const {
    const std::string root = dir_ / run + "/checkpoints";
    if (!exists(root)) return false;
    const auto names = list_dir(root);
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& name) { return name.starts_with(prefix); });
  }

  // Until that moment has come, or the launcher has ended.
  void wait_for(Moment moment, const std::string& run, pid_t launcher) {
    const auto until = Clock::now() + length_ * (random_() % 1000) / 1000;
    const char* sign = moment == Moment::rotating ? ".trash-" : ".tmp-";
    siginfo_t ended{};
    while (waitid(P_PID, static_cast<id_t>(launcher), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid == 0 &&
           (Clock::now() < until || (moment != Moment::any && !holds(run, sign))))
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

  // Disturbs runs by `hit`, which returns what it sent to whom, until `kills_` were disturbed
  // before they had ended; `judge` looks at how they ended.
  template <class Hit, class Judge>
  void disturb(const std::string& name, const Hit& hit, const Judge& judge) {
    int disturbed = 0, saving = 0, rotating = 0;
    for (int i = 0; disturbed < kills_; ++i) {
      ASSERT_LT(i, 4 * kills_ + 10) << "most runs end before they are hit";
      const std::string run = name + std::to_string(i);
      SCOPED_TRACE(run);
      const pid_t launcher = train(run);
      wait_for(static_cast<Moment>(i % 3), run, launcher);
      const auto what = hit(launcher, i);
      const Result end = finish(launcher);
      ASSERT_TRUE(nobody_is_left());
      ASSERT_TRUE(folder_goes());
      if (end.code != 0) {
        ++disturbed;
        saving += holds(run, ".tmp-");
        rotating += holds(run, ".trash-");
        judge(end, what);
      }
      ASSERT_EQ(result_of(run), whole_);
      std::filesystem::remove_all(dir_ / run);
    }
    RecordProperty(name + "_disturbed", disturbed);
    RecordProperty(name + "_while_saving", saving);
    RecordProperty(name + "_while_rotating", rotating);
  }

  // The warden's last act, if the launcher could not.
  bool folder_goes() const {
    for (int i = 0; i < 5000 && !folder_is_clean(); ++i) usleep(1000);
    return folder_is_clean();
  }

  std::mt19937 random_{20};
  int kills_ = 5;
  Clock::duration length_{};
  std::string whole_;
};

TEST_F(LauncherKillTest, ARank) {
  const auto kill_one = [&](pid_t launcher, int i) {
    const int rank = i / 3 % 2;
    const pid_t pid = rank_pid(launcher, rank);
    if (pid != 0) kill(pid, SIGKILL);
    return "pinion launch: rank " + std::to_string(rank) + " (pid " + std::to_string(pid) +
           ") ended by signal 9 (SIGKILL)";
  };
  disturb("rank", kill_one, [&](const Result& end, const std::string& line) {
    EXPECT_EQ(end.code, 137) << end.err;
    EXPECT_THAT(end.err, HasSubstr(line));
  });
}

TEST_F(LauncherKillTest, TheLauncher) {
  disturb(
      "launcher", [&](pid_t launcher, int) { return kill(launcher, SIGKILL); },
      [&](const Result& end, int) { EXPECT_EQ(end.code, 137); });
}

// Ranks that have begun to train save and stop; earlier they end by the signal.
TEST_F(LauncherKillTest, TheLauncherIsAskedToStop) {
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGQUIT}) {
    const bool saves = signal != SIGHUP && signal != SIGQUIT;
    int saved = 0;
    const std::string name = sigabbrev_np(signal);
    disturb(
        name, [&](pid_t launcher, int) { return kill(launcher, signal); },
        [&](const Result& end, int) {
          EXPECT_TRUE(end.code == 128 + signal || (saves && end.code == 75)) << end.code << "\n"
                                                                             << end.err;
          saved += end.code == 75;
        });
    RecordProperty(name + "_saved", saved);
  }
}

}  // namespace
}  // namespace pinion
