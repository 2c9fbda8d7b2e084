// SPDX-License-Identifier: Apache-2.0
// accelerate_train as its users meet it: plain, under `pinion launch`, stopped and resumed. Any
// number of ranks with the same global batch trains the same model as simple_train.
#include <gmock/gmock.h>
#include <signal.h>

#include <cmath>
#include <cstdlib>
#include <thread>

#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/paths.h"
#include "pinion/tests/support/program_testing.h"

namespace pinion::toy {
namespace {

using testing::HasSubstr;

const std::string kTrain = in_build("accelerate_train");

class AccelerateTrain : public ProgramTest {
 protected:
  // On one rank plainly, on several by the launcher, each with its share of a batch of 32.
  Result train(int ranks, const std::string& run, std::vector<std::string> arguments = {},
               int batch = 32, const std::vector<std::string>& flags = {}) const {
    std::vector<std::string> all;
    if (ranks > 1)
      all = {in_build("pinion"), "launch", "--cpu", "--num_processes=" + std::to_string(ranks)};
    all.insert(all.end(), flags.begin(), flags.end());
    all.insert(all.end(), {kTrain, "--output_dir=" + dir_ / run});
    arguments.push_back("--batch_size=" + std::to_string(batch / ranks));
    all.insert(all.end(), arguments.begin(), arguments.end());
    return wait(start(all));
  }

  std::vector<float> weights(const std::string& run) const {
    std::vector<float> out;
    const SafetensorsReader reader(dir_ / run + "/model.safetensors");
    for (const char* name : {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}) {
      const auto values = reader.load(*reader.find(name)).values<float>();
      out.insert(out.end(), values.begin(), values.end());
    }
    return out;
  }

  double distance(const std::string& a, const std::string& b) const {
    const auto x = weights(a), y = weights(b);
    EXPECT_EQ(x.size(), 418u);
    double most = 0;
    for (size_t i = 0; i < x.size(); ++i)
      most = std::max(most, static_cast<double>(std::fabs(x[i] - y[i])));
    return most;
  }
};

TEST_F(AccelerateTrain, TrainsTheModelOfSimpleTrainOnAnyNumberOfRanks) {
  const Result simple = wait(start({in_build("simple_train"), "--output_dir=" + dir_ / "simple"}));
  ASSERT_EQ(simple.code, 0) << simple.err;
  const size_t last = simple.out.find("Epoch 5/5");
  const std::string line = simple.out.substr(last, simple.out.find('\n', last) - last);
  for (const int ranks : {1, 2, 4}) {
    const std::string run = "ranks" + std::to_string(ranks);
    const Result result = train(ranks, run);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr(line));                  // loss and accuracy of all ranks
    EXPECT_EQ(result.out.find(line), result.out.rfind(line));  // once
    EXPECT_LE(distance("simple", run), ranks == 1 ? 0 : 1e-6);
  }
  ASSERT_EQ(train(2, "windows", {"--gradient_accumulation_steps=4"}, 8).code, 0);
  EXPECT_LE(distance("simple", "windows"), 1e-6);
}

TEST_F(AccelerateTrain, ShardsWhenTheLauncherSaysSo) {
  ASSERT_EQ(train(2, "plain").code, 0);
  const std::vector<std::string> asked[] = {{"--use_deepspeed", "--zero_stage", "1"},
                                            {"--use_deepspeed", "--zero_stage", "2"},
                                            {"--use_fsdp", "--fsdp_sharding_strategy=FULL_SHARD"}};
  for (const auto& flags : asked) {
    const std::string run = "zero" + flags.back();
    const Result result = train(2, run, {"--epochs=3", "--save_every=1", "--resume"}, 32, flags);
    ASSERT_EQ(result.code, 0) << result.err;
    ASSERT_EQ(train(2, run, {"--save_every=1", "--resume"}, 32, flags).code, 0);
    EXPECT_LE(distance("plain", run), 1e-6) << flags.back();
    EXPECT_TRUE(exists(dir_ / run + "/checkpoints/step-160/shard-1.safetensors"));
  }
  // Whatever the stage, a run goes on without ZeRO too.
  EXPECT_EQ(train(2, "plain", {"--epochs=6"}).code, 0);
  EXPECT_EQ(train(2, "zero2", {"--epochs=6", "--save_every=1", "--resume"}).code, 0);
  EXPECT_LE(distance("plain", "zero2"), 1e-6);
}

TEST_F(AccelerateTrain, ResumesAsIfItHadNotStopped) {
  ASSERT_EQ(train(2, "whole").code, 0);
  ASSERT_EQ(train(2, "parts", {"--epochs=3", "--save_every=1", "--resume"}).code, 0);
  const Result refused = train(2, "parts", {"--save_every=1"});
  EXPECT_EQ(refused.code, 64);
  EXPECT_THAT(refused.err, HasSubstr("without checkpoints of an earlier run"));
  const Result rest = train(2, "parts", {"--save_every=1", "--resume"});
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_THAT(rest.out, testing::Not(HasSubstr("Epoch 3/5")));
  EXPECT_EQ(distance("whole", "parts"), 0);
  EXPECT_EQ(text("whole/metrics.jsonl"), text("parts/metrics.jsonl"));
  EXPECT_EQ(train(1, "whole", {"--resume=" + dir_ / "nothing"}).code, 80);
}

TEST_F(AccelerateTrain, SavesAndEndsWhenAsked) {
  const std::vector<std::string> command = {kTrain, "--output_dir=" + dir_ / "run",
                                            "--epochs=1000000", "--save_every=1000000", "--resume"};
  const pid_t child = start(command);
  while (text("stdout").find("Epoch 2/") == std::string::npos)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGTERM);
  const Result result = wait(child);
  EXPECT_EQ(result.code, 75) << result.err;
  const Result over = train(1, "run", {"--epochs=1", "--resume"});
  EXPECT_EQ(over.code, 0) << over.err;
  EXPECT_THAT(over.out, testing::Not(HasSubstr("Epoch")));
}

TEST_F(AccelerateTrain, EndsByASignalWhereNothingIsSaved) {
  const pid_t child = start({kTrain, "--output_dir=" + dir_ / "run", "--epochs=1000000"});
  while (text("stdout").find("Epoch 2/") == std::string::npos)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGTERM);
  EXPECT_EQ(wait(child).code, 128 + SIGTERM);
}

TEST_F(AccelerateTrain, PrintsIntoNoFileWhereStandardStreamsAreClosed) {
  const std::string command = kTrain + " --epochs=2 --output_dir=" + dir_ / "run" + " <&- >&- 2>&-";
  EXPECT_EQ(std::system(command.c_str()), 0);  // NOLINT: the arguments are the test's own
  EXPECT_THAT(text("run/metrics.jsonl"), testing::Not(HasSubstr("Epoch")));
}

TEST_F(AccelerateTrain, RefusesTheDirectoryOfARunThatGoesOn) {
  const std::vector<std::string> command = {kTrain, "--output_dir=" + dir_ / "run",
                                            "--epochs=1000000", "--save_every=1000000"};
  const pid_t first = start(command);
  while (!exists(dir_ / "run/metrics.jsonl") || text("run/metrics.jsonl").empty())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const Result second = wait(start(command));
  EXPECT_EQ(second.code, 78);
  EXPECT_THAT(second.err, HasSubstr("another run is writing " + dir_ / "run/metrics.jsonl"));
  kill(first, SIGKILL);
  wait(first);
  EXPECT_THAT(text("run/metrics.jsonl"), testing::StartsWith("{\"step\":1,"));
}

TEST_F(AccelerateTrain, GoesOnWithTheSettingsAndRanksThatItBeganWith) {
  const std::vector<std::string> goes_on = {"--save_every=1", "--resume"};
  ASSERT_EQ(train(2, "run", {"--epochs=1", "--save_every=1"}).code, 0);
  for (const char* other : {"--lr=0.01", "--hidden=16", "--optimizer=adamw", "--seed=1"}) {
    const Result refused = train(2, "run", {"--save_every=1", "--resume", other});
    EXPECT_EQ(refused.code, 80) << other;
    const std::string flag(other);
    EXPECT_THAT(refused.err, HasSubstr(flag.substr(2, flag.find('=') - 2) + ": ")) << other;
  }
  const Result lr = train(2, "run", {"--save_every=1", "--resume", "--lr=0.01"});
  EXPECT_THAT(lr.err, HasSubstr("lr: \"0.001\" there, \"0.01\" here"));
  // The same share for one rank: half of the batch of two.
  const Result fewer = train(1, "run", goes_on, 16);
  EXPECT_EQ(fewer.code, 80);
  EXPECT_THAT(fewer.err, HasSubstr("was saved by 2 ranks, this run has 1"));
  const Result allowed =
      train(1, "run", {"--save_every=1", "--resume", "--allow_world_size_change"}, 16);
  EXPECT_EQ(allowed.code, 0) << allowed.err;
}

TEST_F(AccelerateTrain, RefusesContradictions) {
  const pid_t child = start({in_build("pinion"), "launch", "--cpu", "--num_processes=1",
                             "--mixed_precision=bf16", kTrain, "--mixed_precision=fp16"});
  const Result result = wait(child);
  EXPECT_EQ(result.code, 64);
  EXPECT_THAT(result.err, HasSubstr("expected what the launcher was told, bf16, got fp16"));
}

}  // namespace
}  // namespace pinion::toy
