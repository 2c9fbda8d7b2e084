// SPDX-License-Identifier: Apache-2.0
// Comm hooks: how far from the exact mean each may be, and that PowerSGD forgets nothing. And the
// digest that watches over reductions.
#include "pinion/dist/parallel/comm_hook.h"

#include "ddp_testing.h"
#include "pinion/dist/parallel/digest.h"

namespace pinion::testing {
namespace {

using dist::Bucket;
using dist::ProcessGroup;
using dist::ReduceOp;

constexpr int64_t kRows = 24, kCols = 20, kBias = 10;

// A bucket of one matrix and one vector, whose gradients depend on rank and step.
struct Fake {
  Fake() {
    Tensor grads = Tensor::zeros({kRows * kCols + kBias});
    bucket = {0, grads, {}};
    bucket.items.push_back({"w", grads.rows(0, kRows * kCols).alias({kRows, kCols})});
    bucket.items.push_back({"b", grads.rows(kRows * kCols, kRows * kCols + kBias)});
  }
  static double value(int rank, int step, int64_t i) {
    return std::sin(double(i % kCols) * 0.7 + rank) * std::cos(double(i / kCols) + step) +
           0.3 * std::sin(double(i * (step + 2) + rank));
  }
  void fill(int rank, int step) {
    std::vector<float> g;
    for (int64_t i = 0; i < bucket.grads.numel(); ++i)
      g.push_back(static_cast<float>(value(rank, step, i)));
    bucket.grads.copy_(Tensor::of(g, bucket.grads.shape()));
  }
  Bucket bucket;
};

std::vector<float> reduce(dist::CommHook& hook, Fake& fake, ProcessGroup& group) {
  hook.start(fake.bucket, ReduceOp::mean, group);
  hook.finish(fake.bucket, ReduceOp::mean, group);
  return fake.bucket.grads.values<float>();
}

double exact_mean(int ranks, int step, int64_t i) {
  double sum = 0;
  for (int r = 0; r < ranks; ++r) sum += Fake::value(r, step, i);
  return sum / ranks;
}

TEST(CommHook, SixteenBitsAreWithinTheirRounding) {
  struct Row {
    std::unique_ptr<dist::CommHook> (*make)();
    double bound;  // twice half a unit in the last place, of values below 2
  };
  for (const Row& row : {Row{dist::all_reduce_hook, 1e-6}, Row{dist::bf16_compress_hook, 1.0 / 64},
                         Row{dist::fp16_compress_hook, 1.0 / 512}})
    dist::run_local(3, [&](ProcessGroup& group) {
      const auto hook = row.make();
      Fake fake;
      hook->prepare({&fake.bucket, 1}, group);
      fake.fill(group.rank(), 0);
      const auto got = reduce(*hook, fake, group);
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i)
        worst = std::max(worst, std::abs(double(got[i]) - exact_mean(3, 0, int64_t(i))));
      EXPECT_LE(worst, row.bound);
      EXPECT_EQ(worst > 1e-5, row.bound > 1e-4);  // it was in 16 bits
    });
}

TEST(CommHook, TrainingWithSixteenBitsStaysClose) {
  const auto train = [](std::unique_ptr<dist::CommHook> (*make)()) {
    dist::DdpOptions options = small_buckets();
    manual_seed(3);
    Weights out;
    dist::run_local(2, [&](ProcessGroup& group) {
      dist::DdpOptions own = options;
      own.hook = make();
      DdpNet net;
      optim::Sgd sgd(net.named_parameters(), {.lr = 0.1});
      dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, own);
      for (int s = 0; s < 5; ++s) {
        const Batch b = batch_of(s * 16 + group.rank() * 8, 8);
        ddp.backward(nn::cross_entropy(ddp(b.x), b.y));
        sgd.step(), sgd.zero_grad();
      }
      if (group.rank() == 0) out = weights_of(net);
    });
    return out;
  };
  const Weights exact = train(dist::all_reduce_hook);
  EXPECT_LE(distance(exact, train(dist::bf16_compress_hook)), 3e-3);
  EXPECT_LE(distance(exact, train(dist::fp16_compress_hook)), 4e-4);
}

// What was applied over all steps, plus what is still owed, is what should have been applied.
TEST(PowerSgd, ErrorFeedbackLosesNothing) {
  constexpr int kRanks = 3, kSteps = 6;
  for (const int64_t rank : {1, 2}) {
    std::vector<std::vector<float>> owed(kRanks);
    std::vector<double> applied;
    double first_step_off = 0;
    dist::run_local(kRanks, [&](ProcessGroup& group) {
      dist::PowerSgdHook hook({.rank = rank, .start_iteration = 2});
      Fake fake;
      hook.prepare({&fake.bucket, 1}, group);
      std::vector<double> sum(static_cast<size_t>(fake.bucket.grads.numel()));
      for (int s = 0; s < kSteps; ++s) {
        fake.fill(group.rank(), s);
        const auto got = reduce(hook, fake, group);
        for (size_t i = 0; i < got.size(); ++i) {
          sum[i] += double(got[i]);
          const double off = std::abs(double(got[i]) - exact_mean(kRanks, s, int64_t(i)));
          // Before the start, and for vectors always, it is the plain mean.
          const bool plain = s < 2 || i >= size_t(kRows * kCols);
          EXPECT_LE(off, plain ? 1e-6 : 10);
          if (s == 2 && group.rank() == 0) first_step_off = std::max(first_step_off, off);
        }
      }
      owed[static_cast<size_t>(group.rank())] = hook.error(0).values<float>();
      if (group.rank() == 0) applied = sum;
    });
    EXPECT_GT(first_step_off, 0.01);  // it was compressed
    for (size_t i = 0; i < applied.size(); ++i) {
      double expected = 0, error = 0;
      for (int s = 0; s < kSteps; ++s) expected += exact_mean(kRanks, s, int64_t(i));
      for (const auto& e : owed) error += double(e[i]) / kRanks;
      EXPECT_NEAR(applied[i] + error, expected, 5e-6);
    }
  }
}

// A matrix of rank 1 needs no more: after a few warm starts it arrives whole.
TEST(PowerSgd, WarmStartFindsALowRankMatrix) {
  dist::run_local(2, [](ProcessGroup& group) {
    dist::PowerSgdHook hook({.rank = 1, .start_iteration = 0});
    Fake fake;
    hook.prepare({&fake.bucket, 1}, group);
    std::vector<float> g(static_cast<size_t>(fake.bucket.grads.numel()));
    for (size_t i = 0; i < g.size(); ++i)
      g[i] = float(std::sin(double(i / kCols)) * std::cos(double(i % kCols)));
    std::vector<float> got;
    for (int s = 0; s < 3; ++s) {
      fake.bucket.grads.copy_(Tensor::of(g, fake.bucket.grads.shape()));
      got = reduce(hook, fake, group);
    }
    for (size_t i = 0; i < g.size(); ++i) EXPECT_NEAR(g[i], got[i], 1e-5);
  });
}

TEST(Digest, SeesEveryBitAndItsPlace) {
  std::vector<uint8_t> bytes(700'000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * i + i / 7);
  const auto digest = [&](size_t n) { return dist::digest_of(bytes.data(), int64_t(n)); };
  for (const size_t n : {size_t{1}, size_t{127}, size_t{128}, size_t{4096}, bytes.size()}) {
    const uint64_t before = digest(n);
    for (size_t bit = 3; bit < 8 * n; bit += 8 * n / 61 + 1) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      EXPECT_NE(digest(n), before) << n << " bytes, bit " << bit;
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
    EXPECT_EQ(digest(n), before);
    EXPECT_NE(digest(n), digest(n - 1));
  }
  const uint64_t before = digest(4096);
  std::swap_ranges(bytes.begin(), bytes.begin() + 8, bytes.begin() + 8);  // lanes
  EXPECT_NE(digest(4096), before);
}

TEST(Digest, IsTheSameOnEveryKindOfCpuAndForAnyThreads) {
  std::vector<float> x(500'001);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i) * 0.37f;
  const auto digest = [&](int threads, Isa isa) {
    const CpuContextGuard guard(threads, isa);
    return dist::digest_of(Tensor::of(x, {int64_t(x.size())}));
  };
  const uint64_t expected = digest(1, Isa::scalar);
  for (int isa = 0; isa <= static_cast<int>(best_isa()); ++isa)
    for (const int threads : {1, 3}) EXPECT_EQ(digest(threads, static_cast<Isa>(isa)), expected);
}

}  // namespace
}  // namespace pinion::testing
