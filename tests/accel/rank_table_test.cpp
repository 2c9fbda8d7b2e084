// SPDX-License-Identifier: Apache-2.0
// One rank with batches of 32 against 2 and 4 ranks that share them: losses and final weights, for
// plain data parallelism and ZeRO, whole batches and windows of micro-batches, f32 and bf16, and a
// last batch that nothing divides. Prints its table; `ctest -V -R rank_table_test` shows it.
#include <fmt/core.h>

#include <cmath>

#include "accelerator_testing.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"

namespace pinion::accel {
namespace {

constexpr int64_t kBatch = 32, kSamples = 250, kFeatures = 7, kClasses = 3;
constexpr int kEpochs = 3, kUpdates = 24;
constexpr double kLr = 0.01;

// How far runs may be apart that add up the same numbers in another order.
//
// f32: a sum of 32 gradients has a relative error of at most 32 halves of an ulp, which Adam makes
// lr times as much of a weight below 1, whose own rounding is half an ulp. Nothing here cancels so
// far that more of a gradient is lost. Measured: 2.7e-7.
constexpr double kUlp = 0x1p-23;
constexpr double kF32 = kUpdates * (kLr * kBatch + 1) * kUlp / 2;
// bf16: every micro-batch's gradient is rounded to 8 bits, and so are the weights it is taken of,
// which differ by an ulp where rounding falls the other way: 2^-8 of a gradient in any update. That
// turns the sign of gradients near zero, of which Adam makes whole steps, so the largest difference
// says little; the norm of all weights may be off by four such errors. Measured: 3e-3, and 5e-4 of
// the losses, which are means over samples.
constexpr double kBf16 = 0x1p-8;

struct Cell {
  nn::Precision precision = nn::Precision::no;
  int ranks = 1;
  int64_t steps = 1;  // micro-batches in a window
  int stage = 0;      // of ZeRO; 0: plain data parallelism
};

struct Outcome {
  std::vector<double> losses;  // of each update: the mean over its samples
  std::vector<float> weights;  // at the end
};

TensorDataset samples() {
  std::vector<float> x;
  std::vector<int64_t> y;
  for (int64_t i = 0; i < kSamples; ++i) {
    double score = 0;
    for (int64_t c = 0; c < kFeatures; ++c) {
      x.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(1 + i * kFeatures + c))));
      score += x.back() * (c % 2 ? 1 : -1);
    }
    y.push_back(score < -0.5 ? 0 : score < 0.5 ? 1 : 2);
  }
  return {Tensor::of(x, {kSamples, kFeatures}), Tensor::of(y, {kSamples})};
}

Outcome train(dist::ProcessGroup& group, const Cell& cell) {
  Accelerator a({.mixed_precision = cell.precision,
                 .gradient_accumulation_steps = cell.steps,
                 .split_batches = true,
                 .even_batches = false,
                 .ddp = {.first_bucket_bytes = 1 << 10, .bucket_bytes = 4 << 10},
                 .zero_stage = cell.stage,
                 .zero = {.bucket_bytes = 4 << 10, .persistent_elements = 0},
                 .group = &group});
  nn::Mlp net({kFeatures, 33, 33, kClasses});
  optim::Adam adam(net.named_parameters(), {.lr = kLr});
  DataLoader data(samples(), {.batch_size = kBatch / cell.steps, .shuffle = true, .seed = 3});
  auto [model, optimizer, loader] = a.prepare(net, adam, data);
  Outcome out;
  double sum = 0, count = 0;
  for (int epoch = 0; epoch < kEpochs; ++epoch)
    for (auto& [x, y] : loader) {
      const auto micro_batch = a.accumulate(model);
      const Tensor loss = nn::cross_entropy(model(x), y);
      a.backward(loss);
      optimizer.step();
      optimizer.zero_grad();
      const auto rows = static_cast<double>(loader.real_rows());
      sum += a.reduce(loss.detach() * rows).item(),
          count += a.reduce(Tensor::full({}, rows)).item();
      if (!a.sync_gradients()) continue;
      out.losses.push_back(sum / count);
      sum = count = 0;
    }
  const auto whole = a.summon_full_params();
  for (const Tensor& p : net.parameters())
    for (const float w : p.values<float>()) out.weights.push_back(w);
  return out;
}

Outcome train(const Cell& cell) {
  manual_seed(11);
  const auto all = on_ranks(cell.ranks, [&](dist::ProcessGroup& g) { return train(g, cell); });
  for (const Outcome& other : all) EXPECT_EQ(other.weights, all[0].weights);
  return all[0];
}

struct Distance {
  double most = 0;      // the largest difference
  double relative = 0;  // that of the norms: |a - b| / |b|
};

template <class T>
Distance distance(const std::vector<T>& a, const std::vector<T>& b) {
  EXPECT_EQ(a.size(), b.size());
  Distance d;
  double apart = 0, squares = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::fabs(double(a[i]) - double(b[i]));
    d.most = difference <= d.most ? d.most : difference;  // a NaN stays
    apart += difference * difference, squares += double(b[i]) * double(b[i]);
  }
  d.relative = std::sqrt(apart / squares);
  return d;
}

std::string text_of(const Distance& d) {
  return d.most == 0 ? "bit-equal" : fmt::format("{:.1e} / {:.1e}", d.most, d.relative);
}

TEST(RankTable, RanksAndWindowsTrainWhatOneRankTrains) {
  fmt::print("{:5}{:>6}{:>8}  {:7}{:>20}{:>20}{:>12}\n", "", "ranks", "window", "", "losses",
             "weights", "= ddp");
  for (const nn::Precision precision : {nn::Precision::no, nn::Precision::bf16}) {
    const Outcome one = train({.precision = precision});
    ASSERT_EQ(one.losses.size(), kUpdates);
    EXPECT_LT(one.losses.back(), 0.5 * one.losses.front());  // it learned something
    for (const int ranks : {1, 2, 4})
      for (const int64_t steps : {1, 4}) {
        Outcome plain;
        for (const int stage : {0, 1, 2, 3}) {
          const Cell cell{precision, ranks, steps, stage};
          if (ranks == 1 && (steps == 1 || stage > 0)) continue;  // that is `one`
          const Outcome got = train(cell);
          if (stage == 0) plain = got;
          const Distance losses = distance(got.losses, one.losses);
          const Distance weights = distance(got.weights, one.weights);
          const bool as_plain = got.weights == plain.weights && got.losses == plain.losses;
          // Stages 2 and 3 reduce every micro-batch of a window, and then add; the others add
          // first.
          if (steps == 1 || stage == 1) {
            EXPECT_TRUE(as_plain) << nn::name_of(precision) << ranks << steps << stage;
          }
          const bool f32 = precision == nn::Precision::no;
          EXPECT_LE(f32 ? losses.most : losses.relative, f32 ? kF32 : kBf16);
          EXPECT_LE(f32 ? weights.most : weights.relative, f32 ? kF32 : 4 * kBf16);
          fmt::print("{:5}{:6}{:8}  {:7}{:>20}{:>20}{:>12}\n", nn::name_of(precision), ranks, steps,
                     stage == 0 ? "ddp" : fmt::format("zero {}", stage), text_of(losses),
                     text_of(weights), as_plain ? "bit-equal" : "");
        }
      }
  }
}

}  // namespace
}  // namespace pinion::accel
