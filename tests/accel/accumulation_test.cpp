// SPDX-License-Identifier: Apache-2.0
// Training through Accelerator is training with big batches: ranks, micro-batches, short tails and
// weights change nothing but the rounding.
#include <gmock/gmock.h>

#include <cmath>

#include "accelerator_testing.h"
#include "pinion/optim/clip.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

struct Plan {
  int ranks = 1;
  int64_t samples = 64, batch = 8, steps = 1;
  bool even = true, split = false;
  nn::Precision precision = nn::Precision::no;
  double clip = 0;
  bool zero_first = false;  // zero_grad() at the head of the loop
  bool deterministic = false;
};

// The weights {a, b} after three epochs, on every rank.
std::vector<std::vector<float>> train(const Plan& plan) {
  return on_ranks(plan.ranks, [&](dist::ProcessGroup& group) {
    Accelerator accelerator({.mixed_precision = plan.precision,
                             .gradient_accumulation_steps = plan.steps,
                             .split_batches = plan.split,
                             .even_batches = plan.even,
                             .scaler = {.init_scale = 1024},
                             .deterministic = plan.deterministic,
                             .group = &group});
    Line line;
    optim::Sgd sgd(line.named_parameters(), {.lr = 0.1, .momentum = 0.5});
    DataLoader data(line_data(plan.samples),
                    {.batch_size = plan.batch, .shuffle = true, .seed = 1});
    auto [model, optimizer, loader] = accelerator.prepare(line, sgd, data);
    for (int epoch = 0; epoch < 3; ++epoch)
      for (auto& [x, y] : loader) {
        const auto micro_batch = accelerator.accumulate(model);
        if (plan.zero_first) optimizer.zero_grad();
        accelerator.backward(nn::mse_loss(model(x), y));
        if (plan.clip > 0) accelerator.clip_grad_norm_(model->parameters(), plan.clip);
        optimizer.step();
        if (!plan.zero_first) optimizer.zero_grad();
      }
    return std::vector<float>{line.a.values<float>()[0], line.b.values<float>()[0]};
  });
}

// The same in a loop written by hand, on one rank in f32: what all plans are compared with.
std::vector<float> by_hand(int64_t samples, int64_t batch, double clip = 0) {
  Line line;
  optim::Sgd sgd(line.named_parameters(), {.lr = 0.1, .momentum = 0.5});
  DataLoader data(line_data(samples), {.batch_size = batch, .shuffle = true, .seed = 1});
  for (int epoch = 0; epoch < 3; ++epoch)
    for (auto& [x, y] : data) {
      backward(nn::mse_loss(line(x), y));
      if (clip > 0) optim::clip_grad_norm_(sgd, clip);
      sgd.step();
      sgd.zero_grad();
    }
  return {line.a.values<float>()[0], line.b.values<float>()[0]};
}

void expect_same(const Plan& plan, const std::vector<float>& wanted, double tolerance = 1e-6) {
  for (const auto& got : train(plan)) {
    EXPECT_NEAR(got[0], wanted[0], tolerance * 4);
    EXPECT_NEAR(got[1], wanted[1], tolerance * 4);
  }
}

TEST(Accumulation, RanksMakeTheBatchOfOneRank) {
  for (const int ranks : {2, 4}) {
    SCOPED_TRACE(ranks);
    const auto one = by_hand(64, 8 * ranks);
    EXPECT_GT(one[1], 1);  // it learned something
    expect_same({.ranks = ranks, .batch = 8}, one);
    expect_same({.ranks = ranks, .batch = 8 * ranks, .split = true}, one);
    expect_same({.ranks = ranks, .batch = 8, .even = false}, one);
  }
}

TEST(Accumulation, WindowsMakeTheBigBatch) {
  const auto big = by_hand(64, 32);
  expect_same({.batch = 32}, big);
  expect_same({.batch = 8, .steps = 4}, big);
  expect_same({.ranks = 2, .batch = 4, .steps = 4}, big);
  expect_same({.batch = 8, .steps = 4, .zero_first = true}, big);
}

// 50 samples in windows of 32: the last has 18, in two micro-batches of 8 and one of 2; on two
// ranks, a rank ends with a micro-batch of weight 0.
TEST(Accumulation, TheTailCountsForWhatItHas) {
  const auto big = by_hand(50, 32);
  expect_same({.samples = 50, .batch = 32}, big);
  expect_same({.samples = 50, .batch = 8, .steps = 4}, big);
  expect_same({.ranks = 2, .samples = 50, .batch = 4, .steps = 4, .even = false}, big);
  expect_same({.ranks = 2, .samples = 50, .batch = 8, .steps = 2, .even = false}, big);
  expect_same({.ranks = 4, .samples = 50, .batch = 8, .even = false}, big);
}

// Batches of all ranks, in 8 shards; of the last 18 samples, shards of the second batch have none.
TEST(Accumulation, VirtualShardsMakeTheBigBatch) {
  const auto big = by_hand(50, 32);
  for (const int ranks : {1, 2}) {
    expect_same({.ranks = ranks, .samples = 50, .batch = 32, .even = false, .deterministic = true},
                big);
    expect_same({.ranks = ranks,
                 .samples = 50,
                 .batch = 16,
                 .steps = 2,
                 .even = false,
                 .deterministic = true},
                big);
  }
}

TEST(Accumulation, ClipsTheGradientOfTheWholeWindow) {
  const auto big = by_hand(50, 32, 0.3);
  EXPECT_GT(std::abs(big[0] - by_hand(50, 32)[0]), 0.01);  // it did clip
  expect_same({.samples = 50, .batch = 8, .steps = 4, .clip = 0.3}, big);
  expect_same({.ranks = 2, .samples = 50, .batch = 4, .steps = 4, .even = false, .clip = 0.3}, big);
  expect_same(
      {.samples = 50, .batch = 8, .steps = 4, .precision = nn::Precision::fp16, .clip = 0.3}, big,
      5e-3);
}

// bf16: rank_table_test.
TEST(Accumulation, Fp16AgreesBetweenRanksAndOne) {
  const auto one = train({.batch = 16, .precision = nn::Precision::fp16})[0];
  expect_same({.ranks = 2, .batch = 8, .precision = nn::Precision::fp16}, one, 2e-3);
  expect_same({.ranks = 2, .batch = 4, .steps = 2, .precision = nn::Precision::fp16}, one, 2e-3);
}

// Sequences of 1, 2, 3, … tokens whose losses are means over tokens: with the number of tokens as
// weight, four micro-batches on two ranks are the mean over all 36 tokens.
TEST(Accumulation, WeighsByTokensWhenAsked) {
  const auto weight_of = [](int rank, int i) { return 1.0 + rank * 4 + i; };
  const auto results = on_ranks(2, [&](dist::ProcessGroup& group) {
    Accelerator accelerator({.gradient_accumulation_steps = 4, .group = &group});
    Line line;
    optim::Sgd sgd(line.named_parameters(), {.lr = 1});
    auto [model, optimizer] = accelerator.prepare(line, sgd);
    for (int i = 0; i < 4; ++i) {
      const auto micro_batch = accelerator.accumulate(model);
      EXPECT_EQ(accelerator.sync_gradients(), i == 3);
      const double w = weight_of(group.rank(), i);
      accelerator.backward(nn::sum(model(Tensor::full({1, 1}, w))), w);  // da = w, db = 1
      optimizer.step();
      optimizer.zero_grad();
    }
    return std::vector<float>{line.a.values<float>()[0], line.b.values<float>()[0]};
  });
  double tokens = 0, squares = 0;
  for (int r = 0; r < 2; ++r)
    for (int i = 0; i < 4; ++i)
      tokens += weight_of(r, i), squares += weight_of(r, i) * weight_of(r, i);
  for (const auto& got : results) {
    EXPECT_NEAR(got[0], -squares / tokens, 1e-6);
    EXPECT_NEAR(got[1], -1, 1e-6);
  }
}

// Accelerate's own count: 10 samples, batches of 2, windows of 2, two ranks.
TEST(Accumulation, SyncsAtTheEndOfWindowsAndOfLoaders) {
  const auto results = on_ranks(2, [](dist::ProcessGroup& group) {
    std::vector<bool> sync;
    for (const bool with_loader : {true, false}) {
      Accelerator accelerator(
          {.gradient_accumulation_steps = 2, .sync_with_dataloader = with_loader, .group = &group});
      DataLoader data(line_data(10), {.batch_size = 2});
      auto loader = accelerator.prepare(data);
      for (int epoch = 0; epoch < 2; ++epoch)
        for ([[maybe_unused]] auto& batch : loader) {
          const auto micro_batch = accelerator.accumulate();
          sync.push_back(accelerator.sync_gradients());
        }
    }
    return sync;
  });
  for (const auto& sync : results)
    EXPECT_THAT(sync, testing::ElementsAre(false, true, true, false, true, true,  //
                                           false, true, false, true, false, true));
}

// Without accumulate(): gradients of several backwards add up, each averaged over its samples.
TEST(Accumulation, OutsideItBackwardsAddUp) {
  on_ranks(2, [](dist::ProcessGroup& group) {
    Accelerator accelerator({.group = &group});
    Line line;
    optim::Sgd sgd(line.named_parameters(), {.lr = 1});
    auto [model, optimizer] = accelerator.prepare(line, sgd);
    const Tensor x = Tensor::full({1, 1}, group.rank() + 1.0);
    {
      const auto local = accelerator.no_sync(model);
      accelerator.backward(nn::sum(model(x)));
      EXPECT_EQ(line.a.grad().item(), group.rank() + 1);
    }
    accelerator.backward(nn::sum(model(x)));
    EXPECT_EQ(line.a.grad().item(), 3);
    EXPECT_EQ(line.b.grad().item(), 2);
    optimizer.zero_grad();
    accelerator.backward(nn::sum(model(x)), group.rank() == 0 ? 3 : 1);
    EXPECT_EQ(line.a.grad().item(), (3 * 1 + 1 * 2) / 4.0);
    return 0;
  });
}

TEST(Accumulation, AParameterThatOneRankUsesIsSteppedByAll) {
  on_ranks(2, [](dist::ProcessGroup& group) {
    Accelerator accelerator({.ddp = {.unused = dist::Unused::detect}, .group = &group});
    Line line, other;
    std::vector<nn::NamedTensor> all = line.named_parameters();
    for (const nn::NamedTensor& p : other.named_parameters())
      all.push_back({"other." + p.name, p.tensor});
    optim::Sgd sgd(all, {.lr = 1});
    auto [model, second, optimizer] = accelerator.prepare(line, other, sgd);
    const Tensor x = Tensor::full({1, 1}, 1);
    accelerator.backward(nn::sum(group.rank() == 1 ? second(model(x)) : model(x)));
    EXPECT_TRUE(other.b.grad().defined());
    optimizer.step();
    EXPECT_EQ(other.b.item(), -0.5);
    optimizer.zero_grad();
    accelerator.backward(nn::sum(model(x)));
    EXPECT_FALSE(other.b.grad().defined());
    return 0;
  });
}

TEST(Accumulation, RefusesTwoWeightsInOneMicroBatch) {
  Line line;
  const auto groups = dist::make_local_groups(1);
  Accelerator accelerator({.group = groups[0].get()});
  optim::Sgd sgd(line.named_parameters());
  auto [model, optimizer] = accelerator.prepare(line, sgd);
  const Tensor x = Tensor::full({1, 1}, 1);
  const auto micro_batch = accelerator.accumulate(model);
  accelerator.backward(nn::sum(model(x)), 2);
  accelerator.backward(nn::sum(model(x)), 2);
  EXPECT_THAT(error_of([&] { accelerator.backward(nn::sum(model(x)), 3); }).what(),
              testing::HasSubstr("one weight for all losses of a micro-batch, got 2 and 3"));
  EXPECT_THAT(error_of([&] { accelerator.backward(nn::sum(model(x)), -1); }).what(),
              testing::HasSubstr("a finite weight >= 0, got -1"));
}

}  // namespace
}  // namespace pinion::accel
