// SPDX-License-Identifier: Apache-2.0
// ZeRO's parts and edges: the layout, the norm, accumulation, names of stages, what is refused.
#include <gmock/gmock.h>

#include "pinion/dist/zero/layout.h"
#include "pinion/dist/zero/norm.h"
#include "pinion/tests/support/golden_file.h"
#include "zero_testing.h"

namespace pinion::dist {
namespace {

using pinion::testing::error_text;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ZeroLayout, CutsAtBucketsAndUnitsAndPadsForTheRanks) {
  const int64_t numels[] = {100, 60, 7, 500, 3, 40, 0};
  const int units[] = {-1, -1, -1, -1, 0, 0, -1};
  const ZeroLayout two = lay_out(numels, units, 16, 2, 500);
  // 112 + 64 + 16 fit together and 512 is by itself; then a unit, then what is empty.
  EXPECT_THAT(two.offsets, ElementsAre(0, 112, 176, 256, 768, 784, 896));
  ASSERT_EQ(two.segments.size(), 4u);
  for (const auto& s : two.segments) EXPECT_EQ((s.end - s.begin) % (2 * kNormCell), 0);
  EXPECT_EQ(two.segments[1].begin, 256);
  EXPECT_EQ(two.segments[1].end_item, 4u);
  EXPECT_EQ(two.segments[2].unit, 0);
  EXPECT_EQ(two.segments[3].begin, two.segments[3].end);
  EXPECT_EQ(two.size, 896);
  const ZeroLayout three = lay_out(numels, units, 16, 3, 500);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_EQ(three.segments[i].end_item, two.segments[i].end_item) << "cuts depend on ranks";
  // Another would fit beside a large one, which is alone all the same.
  const int64_t large[] = {16, 512, 16, 16};
  const int none[] = {-1, -1, -1, -1};
  const ZeroLayout alone = lay_out(large, none, 16, 2, 2000);
  ASSERT_EQ(alone.segments.size(), 3u);
  EXPECT_EQ(alone.segments[1].first_item, 1u);
  EXPECT_EQ(alone.segments[2].first_item, 2u);
}

template <class T>
std::vector<double> norm_on(int ranks, const Tensor& whole) {
  std::vector<double> sums;
  std::vector<NormSum> all;
  const int64_t count = whole.numel() / ranks;
  for (int r = 0; r < ranks; ++r) {
    NormSum& mine = all.emplace_back(r, ranks);
    mine.add(whole.rows(r * count, (r + 1) * count));
    const std::vector<double> numbers = mine.numbers();
    sums.resize(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i) sums[i] += numbers[i];
  }
  const optim::GradStats stats = all[0].total(sums);
  return {stats.squares, stats.nonfinite};
}

TEST(ZeroNorm, DoesNotDependOnTheNumberOfRanks) {
  const int64_t n = 3 * kNormBlock + 60 * kNormCell;  // the last block is not full
  Tensor x = waves({n}, 3, 1);
  for (int64_t i = 0; i < n; i += 7) x.mut().as<float>()[i] *= 1e-3f;
  const std::vector<double> one = norm_on<float>(1, x);
  double expected = 0;
  for (const float v : x.values<float>()) expected += static_cast<double>(v) * v;
  EXPECT_NEAR(one[0] / expected, 1, 1e-12);
  for (const int ranks : {2, 3, 4, 6, 12}) EXPECT_EQ(norm_on<float>(ranks, x), one) << ranks;
  x.mut().as<float>()[70'000] = INFINITY;
  x.mut().as<float>()[n - 1] = NAN;
  for (const int ranks : {1, 2, 3}) EXPECT_EQ(norm_on<float>(ranks, x)[1], 2) << ranks;
}

// Two micro-batches per step, summed before or after they are reduced.
Named accumulate(int stage, bool with_sync) {
  Named out;
  run_local(2, [&](ProcessGroup& group) {
    ZeroLoop loop({.stage = stage,
                   .ranks = 2,
                   .make = making<optim::Sgd>(optim::SgdOptions{.lr = 0.1, .momentum = 0.5})},
                  group);
    for (int step = 0; step < 3; ++step) {
      for (int micro = 0; micro < 2; ++micro) {
        if (loop.zero()) loop.zero()->set_sync(with_sync || micro == 1);
        const Tensor x = waves({4, 33}, step * 100 + micro * 10 + group.rank(), 1);
        backward(nn::mean(loop.forward(x, true)) * 0.5);
        if (loop.zero() && micro == 0) loop.zero()->synchronize();
      }
      if (!loop.zero()) loop.all_reduce();
      loop.optimizer().step();
      loop.optimizer().zero_grad();
    }
    const Named params = loop.params();
    if (group.rank() == 0) out = params;
  });
  return out;
}

TEST(ZeroUse, AccumulatesGradients) {
  const Named plain = accumulate(0, true);
  EXPECT_EQ(accumulate(1, false), plain);  // reduced once, as without ZeRO
  for (const int stage : {2, 3}) {
    const Named zero = accumulate(stage, false);
    EXPECT_EQ(zero, accumulate(stage, true)) << "sync means nothing from stage 2 on";
    for (size_t i = 0; i < plain.size(); ++i)
      for (size_t k = 0; k < plain[i].second.size(); ++k)
        ASSERT_NEAR(zero[i].second[k], plain[i].second[k], 1e-6) << plain[i].first;
  }
}

TEST(ZeroUse, ClipsValuesOfAllShards) {
  Named results[4];
  for (const int stage : {0, 1, 2, 3})
    run_local(2, [&](ProcessGroup& group) {
      ZeroLoop loop(
          {.stage = stage, .ranks = 2, .make = making<optim::Sgd>(optim::SgdOptions{.lr = 0.1})},
          group);
      backward(nn::mean(loop.forward(waves({4, 33}, group.rank(), 1), true)));
      if (!loop.zero()) loop.all_reduce();
      optim::clip_grad_value_(loop.optimizer(), 1e-3);
      loop.optimizer().step();
      const Named params = loop.params();
      if (group.rank() == 0) results[stage] = params;
    });
  for (const int stage : {1, 2, 3}) EXPECT_EQ(results[stage], results[0]) << stage;
}

TEST(ZeroUse, EvaluatesBetweenStepsWithoutRecording) {
  run_local(2, [](ProcessGroup& group) {
    ZeroLoop loop({.stage = 3, .ranks = 2, .make = making<optim::Adam>(optim::AdamOptions{})},
                  group);
    const Tensor x = waves({4, 33}, 5, 1);
    loop.step(0);
    std::vector<float> before, whole;
    {
      const NoGrad no_grad;
      before = loop.forward(x, true).values<float>();
    }
    {
      const Zero::Whole all(*loop.zero());
      const NoGrad no_grad;
      const Tensor h = loop.net().second(loop.net().first(x, Activation::relu), Activation::relu);
      whole = loop.net().third(h).values<float>();
    }
    EXPECT_EQ(before, whole);
    loop.step(1);
  });
}

// Rank 1's loss has nothing to do with the model in odd steps: the sums are rank 0's alone, and
// nobody waits for it. Gradients are given up, too, and once steps follow each other without
// zero_grad().
TEST(ZeroUse, ARankThatReachesNoParameterStillTakesPart) {
  for (const int stage : {1, 2}) {
    SCOPED_TRACE(stage);
    Named sharded, plain;
    for (const int s : {stage, 0})
      run_local(2, [&](ProcessGroup& group) {
        group.set_timeout(std::chrono::seconds(20));
        ZeroLoop loop({.stage = s, .ranks = 2, .make = making<optim::Adam>(optim::AdamOptions{})},
                      group);
        Tensor elsewhere = Tensor::full({1}, 1);
        elsewhere.requires_grad(true);
        for (int step = 0; step < 6; ++step) {
          const bool reaches = group.rank() == 0 || step % 2 == 0;
          const Tensor x = waves({4, 33}, step * 10 + group.rank(), 1);
          backward(nn::mean(reaches ? loop.forward(x, true) : elsewhere * 2));
          if (s == 0) loop.all_reduce();
          if (step != 3) loop.optimizer().step();  // else: given up
          if (step != 4 || stage == 1) loop.optimizer().zero_grad();
        }
        const Named params = loop.params();
        if (group.rank() == 0) (s == 0 ? plain : sharded) = params;
      });
    ASSERT_EQ(sharded.size(), plain.size());
    for (size_t i = 0; i < plain.size(); ++i)
      for (size_t k = 0; k < plain[i].second.size(); ++k)
        ASSERT_NEAR(sharded[i].second[k], plain[i].second[k], 1e-5) << plain[i].first;
  }
}

// At stage 3 there is no way to take part: the others gather units meanwhile.
TEST(ZeroUse, ARankThatReachesNoUnitIsAnErrorForAll) {
  run_local(2, [](ProcessGroup& group) {
    group.set_timeout(std::chrono::seconds(20));
    ZeroLoop loop({.stage = 3, .ranks = 2, .make = making<optim::Adam>(optim::AdamOptions{})},
                  group);
    Tensor elsewhere = Tensor::full({1}, 1);
    elsewhere.requires_grad(true);
    const Tensor y = loop.forward(waves({4, 33}, group.rank(), 1), true);
    try {
      backward(nn::mean(group.rank() == 0 ? y : elsewhere * 2));
      loop.optimizer().step();
      ADD_FAILURE() << "expected an error on rank " << group.rank();
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("ZeRO: rank 1 called units, but backward() reached none"));
    }
  });
}

TEST(ZeroUse, RefusesWhatItCannotDo) {
  const auto make = making<optim::Adam>(optim::AdamOptions{});
  const auto refusal = [&](const std::function<void(ZeroLoop&, ProcessGroup&)>& f, int stage) {
    return error_text(ErrorKind::internal, [&] {
      run_local(1, [&](ProcessGroup& group) {
        ZeroLoop loop({.stage = stage, .make = make}, group);
        f(loop, group);
      });
    });
  };
  const Tensor x = waves({4, 33}, 5, 1);
  const auto pass = [&](ZeroLoop& loop) { backward(nn::mean(loop.forward(x, true))); };
  const auto twice = [&](ZeroLoop& loop, ProcessGroup&) { pass(loop), pass(loop); };
  EXPECT_THAT(refusal(twice, 1), HasSubstr("set_sync(false) before the first"));
  EXPECT_THAT(refusal(twice, 2), HasSubstr("between two backward() call synchronize()"));
  EXPECT_THAT(refusal(twice, 3), HasSubstr("between two backward() call synchronize()"));
  EXPECT_THAT(refusal([](ZeroLoop& loop, ProcessGroup&) { loop.shard(2); }, 1),
              HasSubstr("neither sharded already nor capturable"));
  EXPECT_THAT(refusal([](ZeroLoop& loop, ProcessGroup&) { loop.optimizer().make_capturable(); }, 2),
              HasSubstr("a sharded optimizer cannot be capturable"));
  EXPECT_THAT(refusal([](ZeroLoop& loop, ProcessGroup&) { loop.shard(4); }, 0),
              HasSubstr("expected stage 1, 2 or 3, got 4"));
  EXPECT_THAT(refusal([&](ZeroLoop& loop, ProcessGroup&) { pass(loop), loop.shard(1); }, 0),
              HasSubstr("parameters without gradients, but first.weight has one"));
  EXPECT_THAT(refusal(
                  [](ZeroLoop& loop, ProcessGroup&) {
                    nn::Linear other(2, 2);
                    loop.zero()->run(other, [] { return Tensor(); });
                  },
                  3),
              HasSubstr("one of ZeroOptions::units"));
}

TEST(ZeroUse, KnowsTheNamesOfStages) {
  EXPECT_EQ(stage_of_zero("0"), 0);
  EXPECT_EQ(stage_of_zero("3"), 3);
  EXPECT_EQ(stage_of_fsdp("FULL_SHARD"), 3);
  EXPECT_EQ(stage_of_fsdp("1"), 3);
  EXPECT_EQ(stage_of_fsdp("shard_grad_op"), 2);
  EXPECT_EQ(stage_of_fsdp("NO_SHARD"), 0);
  EXPECT_EQ(stage_of_fsdp("true"), 3);  // fsdp_reshard_after_forward of version 2
  EXPECT_EQ(stage_of_fsdp("False"), 2);
  for (const char* hybrid : {"HYBRID_SHARD", "4", "HYBRID_SHARD_ZERO2", "5"})
    EXPECT_THAT(error_text(ErrorKind::config, [&] { stage_of_fsdp(hybrid); }),
                HasSubstr("needs two groups of ranks"));
  for (const char* bad : {"", "4", "-1", "03", "two"})
    EXPECT_THAT(error_text(ErrorKind::config, [&] { stage_of_zero(bad); }),
                HasSubstr("zero_stage: expected 0, 1, 2 or 3"));
  EXPECT_THAT(error_text(ErrorKind::config, [&] { stage_of_fsdp("FULL"); }),
              HasSubstr("expected FULL_SHARD, SHARD_GRAD_OP or NO_SHARD, got FULL"));
}

}  // namespace
}  // namespace pinion::dist
