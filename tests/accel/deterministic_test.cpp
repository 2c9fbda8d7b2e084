// SPDX-License-Identifier: Apache-2.0
// With virtual shards the number of ranks changes no bit: dropout, batch norm, windows, clipping
// and short last batches included, and a run goes on with other ranks. Without, ranks draw noise of
// their own.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>

#include "accelerator_testing.h"
#include "pinion/dist/parallel/sync_batch_norm.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/layers_image.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Numbers = std::vector<float>;

constexpr int64_t kSamples = 250, kFeatures = 7;  // 32 at a time: the last batch has 26

struct Net final : nn::Module {
  nn::Linear first{kFeatures, 16}, last{16, 3};
  nn::BatchNorm2d norm{16};
  nn::Dropout dropout{0.3};
  Tensor operator()(const Tensor& x) {
    Tensor h = nn::reshape(first(x), {x.size(0), 1, 1, 16});
    if (x.size(0) > 1) h = norm(h);  // a single sample has no statistics
    return last(dropout(nn::reshape(nn::relu(h), {x.size(0), 16})));
  }
  void fields(nn::Fields& f) override {
    f("first", first), f("norm", norm), f("dropout", dropout), f("last", last);
  }
};

TensorDataset samples() {
  Numbers x;
  std::vector<int64_t> y;
  for (int64_t i = 0; i < kSamples; ++i) {
    for (int64_t c = 0; c < kFeatures; ++c)
      x.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(1 + i * kFeatures + c))));
    y.push_back(i % 3);
  }
  return {Tensor::of(x, {kSamples, kFeatures}), Tensor::of(y, {kSamples})};
}

struct Job {
  int ranks = 1;
  int64_t steps = 1;  // rounds in a window
  nn::Precision precision = nn::Precision::no;
  double clip = 0;
  bool even = true, zero_first = false, weighted = false;
  int shards = 8;
  int stage = 0;
  int64_t batch = 32;
  std::string root{};
  int save_at = -1, stop_at = 1000;  // after so many micro-batches
  bool load = false;
};

AcceleratorOptions options_of(dist::ProcessGroup& group, const Job& job) {
  return {.mixed_precision = job.precision,
          .gradient_accumulation_steps = job.steps,
          .even_batches = job.even,
          .zero_stage = job.stage,
          .deterministic = true,
          .virtual_shards = job.shards,
          .checkpoints = {.root = job.root},
          .group = &group};
}

// What training shows and leaves: losses and labels in order, unless it may be resumed; the model.
Numbers train(dist::ProcessGroup& group, const Job& job) {
  Accelerator a(options_of(group, job));
  Net net;
  optim::Adam adam(net.named_parameters(), {.lr = 0.02});
  DataLoader data(samples(), {.batch_size = job.batch, .shuffle = true, .seed = 5});
  auto [model, optimizer, loader] = a.prepare(net, adam, data);
  if (job.load) a.load_state();
  Numbers losses, seen;
  int count = 0;
  for (int64_t epoch = loader->state().epoch; epoch < 2; ++epoch)
    for (auto& [x, y] : loader) {
      const auto micro_batch = a.accumulate(model);
      if (job.zero_first) optimizer.zero_grad();
      const Tensor loss = nn::cross_entropy(model(x), y);
      if (job.weighted)
        a.backward(loss, 1.0 + static_cast<double>(loader.indices()[0] % 5));
      else
        a.backward(loss);
      if (job.clip > 0) a.clip_grad_norm_(optimizer, job.clip);
      optimizer.step();
      if (!job.zero_first) optimizer.zero_grad();
      const auto keep = [](Numbers& list, const Tensor& t) {
        for (const float v : t.values<float>()) list.push_back(v);
      };
      keep(losses, a.gather(loss.detach()));
      keep(seen, a.gather_for_metrics(nn::cast(y, DType::f32)));
      if (++count == job.save_at) a.save_state();
      if (count == job.stop_at) return {};
    }
  Numbers out = job.root.empty() ? losses : Numbers();
  if (job.root.empty()) out.insert(out.end(), seen.begin(), seen.end());
  for (const nn::NamedTensor& t : net.state())
    for (const float v : nn::cast(t.tensor, DType::f32).values<float>()) out.push_back(v);
  return out;
}

Numbers train(const Job& job) {
  manual_seed(11);
  const auto all = on_ranks(job.ranks, [&](dist::ProcessGroup& g) { return train(g, job); });
  for (const Numbers& other : all) EXPECT_EQ(other, all[0]);
  return all[0];
}

TEST(Deterministic, TheTreeAddsTheSameBitsOnAnyRanks) {
  constexpr size_t kShards = 8, kElements = 13;
  std::vector<Numbers> terms(kShards, Numbers(kElements));
  Numbers in_a_row(kElements);
  for (size_t s = 0; s < kShards; ++s)
    for (size_t i = 0; i < kElements; ++i) {
      terms[s][i] =
          std::sin(static_cast<float>(s * 31 + i)) * std::exp2(static_cast<float>(s * i % 9));
      in_a_row[i] += terms[s][i];
    }
  std::vector<Numbers> folded = terms;
  for (size_t half = kShards / 2; half > 0; half /= 2)
    for (size_t s = 0; s < half; ++s)
      for (size_t i = 0; i < kElements; ++i) folded[s][i] += folded[s + half][i];
  EXPECT_NE(folded[0], in_a_row);  // the order does matter
  for (const int ranks : {1, 2, 4, 8})
    for (const Numbers& got : on_ranks(ranks, [&](dist::ProcessGroup& group) {
           dist::ShardTree tree(group, kShards);
           for (int t = 0; t < tree.turns(); ++t)
             tree.add(t, {Tensor::of(terms[static_cast<size_t>(t * ranks + group.rank())], {13})});
           const Tensor sum({13});
           tree.finish({sum});
           return sum.values<float>();
         }))
      EXPECT_EQ(got, folded[0]) << ranks;
}

TEST(Deterministic, TheNumberOfRanksChangesNoBit) {
  Job jobs[] = {{},
                {.steps = 2, .clip = 0.1},
                {.precision = nn::Precision::bf16, .zero_first = true},
                {.steps = 3, .precision = nn::Precision::fp16, .clip = 0.1},
                {.even = false, .zero_first = true},
                {.steps = 2, .weighted = true}};
  for (Job& job : jobs) {
    SCOPED_TRACE(&job - jobs);
    job.ranks = 1;
    const Numbers one = train(job);
    for (const float v : one) ASSERT_TRUE(std::isfinite(v));
    for (const int ranks : {2, 4, 8}) {
      job.ranks = ranks;
      EXPECT_EQ(train(job), one) << "on " << ranks << " ranks";
    }
  }
}

TEST(Deterministic, ARunGoesOnWithOtherRanks) {
  TempDir dir;
  const Numbers whole = train({.ranks = 2, .root = dir / "none"});
  train({.ranks = 4, .root = dir / "root", .save_at = 10, .stop_at = 11});  // in the fifth round
  for (const int ranks : {1, 2, 4, 8})
    EXPECT_EQ(train({.ranks = ranks, .root = dir / "root", .load = true}), whole) << ranks;
  // Between the rounds of a window, as many ranks go on.
  const Numbers windows = train({.ranks = 2, .steps = 3, .root = dir / "none"});
  train({.ranks = 2, .steps = 3, .root = dir / "window", .save_at = 8, .stop_at = 8});
  EXPECT_EQ(train({.ranks = 2, .steps = 3, .root = dir / "window", .load = true}), windows);
}

TEST(Deterministic, RefusesWhatWouldChangeBits) {
  const auto refused = [](const Job& job, ErrorKind kind, const char* text) {
    const Error e = error_of([&] { train(job); });
    EXPECT_EQ(e.kind(), kind);
    EXPECT_THAT(e.what(), HasSubstr(text));
  };
  TempDir dir;
  refused({.ranks = 3}, ErrorKind::config, "a number of ranks that divides 8, got 3");
  refused({.shards = 6}, ErrorKind::config, "expected a power of two, got 6");
  refused({.ranks = 2, .stage = 1}, ErrorKind::config, "no ZeRO, got stage 1");
  refused({.batch = 12}, ErrorKind::config, "a multiple of 8 virtual shards, got 12");
  refused({.root = dir.path(), .save_at = 3}, ErrorKind::internal, "the end of a round");
  const auto groups = dist::make_local_groups(1);
  Accelerator a(options_of(*groups[0], {}));
  Net net;
  optim::Adam adam(net.named_parameters());
  DataLoader data(samples(), {.batch_size = 32});
  auto [model, optimizer, loader] = a.prepare(net, adam, data);
  for (auto& [x, y] : loader) {
    const Tensor loss = nn::cross_entropy(model(x), y);
    EXPECT_THAT(error_of([&] { a.backward(loss); }).what(), HasSubstr("expected accumulate()"));
    const auto micro_batch = a.accumulate(model);
    a.backward(nn::cross_entropy(model(x), y));
    EXPECT_THAT(error_of([&] { a.backward(nn::cross_entropy(model(x), y)); }).what(),
                HasSubstr("one in each micro-batch"));
    break;
  }
}

TEST(Deterministic, RefusesStatisticsOfAllRanks) {
  const auto groups = dist::make_local_groups(1);
  Accelerator a(options_of(*groups[0], {}));
  Net net;
  EXPECT_EQ(dist::convert_sync_batchnorm(net, groups[0]), 1);
  const Error e = error_of([&] { a.prepare(net); });
  EXPECT_EQ(e.kind(), ErrorKind::config);
  EXPECT_THAT(e.what(), AllOf(HasSubstr("--deterministic"), HasSubstr("--sync_bn")));
}

// An Accelerator of the environment's ranks says so before NCCL is opened.
TEST(Deterministic, FixesTheOrderOfNcclButForWhatIsSet) {
  setenv("NCCL_ALGO", "Tree", 1);  // the user's
  for (const char* name : {"NCCL_PROTO", "NCCL_NVLS_ENABLE", "NCCL_COLLNET_ENABLE"}) unsetenv(name);
  { const Accelerator plain({.cpu = true}); }
  EXPECT_EQ(std::getenv("NCCL_PROTO"), nullptr);
  const Accelerator a({.cpu = true, .deterministic = true});
  EXPECT_STREQ(std::getenv("NCCL_ALGO"), "Tree");
  EXPECT_STREQ(std::getenv("NCCL_PROTO"), "Simple");
  EXPECT_STREQ(std::getenv("NCCL_NVLS_ENABLE"), "0");
  EXPECT_STREQ(std::getenv("NCCL_COLLNET_ENABLE"), "0");
}

TEST(Noise, IsAnotherOnEveryRankAndTheSameAgain) {
  const auto masks = [] {
    manual_seed(4);
    return on_ranks(4, [](dist::ProcessGroup& group) {
      Accelerator a({.group = &group});
      nn::Dropout dropout(0.5);
      auto model = a.prepare(dropout);
      return model(Tensor::full({64}, 1)).values<float>();
    });
  };
  const std::vector<Numbers> first = masks();
  for (size_t r = 0; r < 4; ++r)
    for (size_t other = 0; other < r; ++other) EXPECT_NE(first[r], first[other]);
  EXPECT_EQ(masks(), first);
  manual_seed(4);
  EXPECT_EQ(nn::Dropout(0.5)(Tensor::full({64}, 1)).values<float>(), first[0]);
}

}  // namespace
}  // namespace pinion::accel
