// SPDX-License-Identifier: Apache-2.0
// Who wins, the program or its launcher, and which device a rank gets.
#include "pinion/accel/run_settings.h"

#include <gmock/gmock.h>

#include <map>

#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using Variables = std::map<std::string, std::string>;

RunSettings settings(const AcceleratorOptions& options, const Variables& variables) {
  return resolve(options, [&](const char* name) {
    const auto at = variables.find(name);
    return at == variables.end() ? nullptr : at->second.c_str();
  });
}

TEST(RunSettings, TheLauncherWinsOverTheProgram) {
  const AcceleratorOptions options{.mixed_precision = nn::Precision::bf16,
                                   .gradient_accumulation_steps = 2};
  RunSettings s = settings(options, {});
  EXPECT_EQ(s.mixed_precision, nn::Precision::bf16);
  EXPECT_EQ(s.gradient_accumulation_steps, 2);
  EXPECT_FALSE(s.cpu);
  s = settings(options, {{"ACCELERATE_MIXED_PRECISION", "FP16"},
                         {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8"},
                         {"ACCELERATE_USE_CPU", "True"}});
  EXPECT_EQ(s.mixed_precision, nn::Precision::fp16);
  EXPECT_EQ(s.gradient_accumulation_steps, 8);
  EXPECT_TRUE(s.cpu);
  s = settings(options, {{"ACCELERATE_MIXED_PRECISION", "no"}, {"ACCELERATE_USE_CPU", "False"}});
  EXPECT_EQ(s.mixed_precision, nn::Precision::no);
  EXPECT_FALSE(s.cpu);
  EXPECT_EQ(settings({}, {}).mixed_precision, nn::Precision::no);
}

TEST(RunSettings, WaitsAsLongAsItIsTold) {
  using std::chrono::seconds;
  EXPECT_EQ(settings({}, {}).timeout, seconds(600));
  EXPECT_EQ(settings({.timeout = seconds(5)}, {}).timeout, seconds(5));
  EXPECT_EQ(settings({.timeout = seconds(5)}, {{"PINION_TIMEOUT", "30"}}).timeout, seconds(30));
}

TEST(RunSettings, ReadsVirtualShards) {
  EXPECT_FALSE(settings({}, {}).deterministic);
  EXPECT_EQ(settings({.virtual_shards = 4}, {}).virtual_shards, 4);
  const RunSettings s =
      settings({}, {{"PINION_DETERMINISTIC", "1"}, {"PINION_VIRTUAL_SHARDS", "16"}});
  EXPECT_TRUE(s.deterministic);
  EXPECT_EQ(s.virtual_shards, 16);
  EXPECT_FALSE(settings({.deterministic = true}, {{"PINION_DETERMINISTIC", "no"}}).deterministic);
}

TEST(RunSettings, ReadsShardingAndClipping) {
  EXPECT_EQ(settings({}, {{"ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"}}).zero_stage, 0);
  EXPECT_EQ(settings({.zero_stage = 1}, {}).zero_stage, 1);
  EXPECT_EQ(settings({.zero_stage = 1}, {{"ACCELERATE_USE_DEEPSPEED", "1"}}).zero_stage, 2);
  EXPECT_EQ(settings({}, {{"ACCELERATE_USE_DEEPSPEED", "true"}}).zero_stage, 2);
  const auto deepspeed = settings({}, {{"ACCELERATE_USE_DEEPSPEED", "true"},
                                       {"ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"},
                                       {"ACCELERATE_GRADIENT_CLIPPING", "0.5"}});
  EXPECT_EQ(deepspeed.zero_stage, 3);
  EXPECT_EQ(deepspeed.gradient_clipping, 0.5);
  EXPECT_EQ(settings({}, {{"ACCELERATE_GRADIENT_CLIPPING", "none"}}).gradient_clipping, 0);
  const std::pair<const char*, int> strategies[] = {
      {"FULL_SHARD", 3}, {"1", 3}, {"SHARD_GRAD_OP", 2}, {"2", 2}, {"NO_SHARD", 0}, {"3", 0}};
  for (const auto& [strategy, stage] : strategies)
    EXPECT_EQ(settings({}, {{"ACCELERATE_USE_FSDP", "true"}, {"FSDP_SHARDING_STRATEGY", strategy}})
                  .zero_stage,
              stage);
}

TEST(RunSettings, NamesTheVariableThatMakesNoSense) {
  const Variables wrong[] = {
      {{"ACCELERATE_MIXED_PRECISION", "fp32"}},
      {{"ACCELERATE_MIXED_PRECISION", "fp8"}},
      {{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "0"}},
      {{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2x"}},
      {{"ACCELERATE_USE_CPU", "maybe"}},
      {{"PINION_TIMEOUT", "0"}},
      {{"PINION_TIMEOUT", "1.5"}},
      {{"PINION_VIRTUAL_SHARDS", "0"}},
      {{"ACCELERATE_GRADIENT_CLIPPING", "-1"}},
      {{"FSDP_SHARDING_STRATEGY", "HYBRID_SHARD"}, {"ACCELERATE_USE_FSDP", "1"}},
      {{"ACCELERATE_DEEPSPEED_ZERO_STAGE", "4"}, {"ACCELERATE_USE_DEEPSPEED", "1"}},
  };
  for (const Variables& variables : wrong) {
    const auto& [name, value] = *variables.rbegin();
    SCOPED_TRACE(name + "=" + value);
    const Error e = error_of([&, &all = variables] { settings({}, all); });
    EXPECT_EQ(e.kind(), ErrorKind::config);
    EXPECT_TRUE(std::any_of(variables.begin(), variables.end(), [&](const auto& v) {
      return std::string(e.what()).starts_with(v.first + ": expected");
    })) << e.what();
  }
  EXPECT_EQ(error_of([] { settings({.gradient_accumulation_steps = 0}, {}); }).kind(),
            ErrorKind::internal);
}

TEST(RunSettings, GivesEachRankOfAHostItsGpu) {
  dist::World world{.rank = 3, .size = 4, .local_rank = 1, .local_size = 2};
  EXPECT_EQ(device_for({}, world, 0), Device{});
  EXPECT_EQ(device_for({}, world, 2), (Device{Device::Kind::cuda, 1}));
  EXPECT_EQ(device_for({.cpu = true}, world, 2), Device{});
  EXPECT_EQ(device_for({.device = "cpu"}, world, 2), Device{});
  EXPECT_THAT(error_of([&] { device_for({}, world, 1); }).what(),
              testing::HasSubstr("a GPU for each of the 2 ranks on this host, got 1"));
  EXPECT_EQ(device_for({.device = "cuda"}, world, 2), (Device{Device::Kind::cuda, 1}));
  const Error e = error_of([&] { device_for({.device = "tpu"}, world, 0); });
  EXPECT_EQ(e.kind(), ErrorKind::usage);
  EXPECT_THAT(e.what(), testing::HasSubstr("expected cpu, cuda, cuda:N or auto, got \"tpu\""));
  EXPECT_ANY_THROW(device_for({.device = "cuda"}, world, 0));
  EXPECT_EQ(settings({.device = "cpu"}, {}).device, "cpu");
  EXPECT_EQ(settings({.device = "cpu"}, {{"ACCELERATE_TORCH_DEVICE", "cuda:1"}}).device, "cuda:1");
}

}  // namespace
}  // namespace pinion::accel
