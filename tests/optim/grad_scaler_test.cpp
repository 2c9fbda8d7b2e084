// SPDX-License-Identifier: Apache-2.0
// GradScaler: PyTorch's scale over a pattern of infinities, the table of transitions, the floor,
// the limit of skips, and its state.
#include "pinion/optim/grad_scaler.h"

#include <gmock/gmock.h>

#include <cmath>

#include "pinion/nn/amp.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/optim/clip.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::optim {
namespace {

using testing::error_text;
using testing::GoldenFile;
using ::testing::HasSubstr;

struct Problem {
  Tensor w = Tensor::zeros({2}).requires_grad(true);
  Sgd sgd{{{"w", w}}, {.lr = 1}};

  void gradient(float value) {
    sgd.zero_grad();
    w.set_grad(Tensor::full({2}, value));
  }
  // A whole iteration; returns whether the step was taken.
  bool iterate(GradScaler& scaler, bool infinite) {
    gradient(infinite ? INFINITY : 1);
    const bool stepped = scaler.step(sgd);
    scaler.update();
    return stepped;
  }
};

TEST(GradScaler, ScaleFollowsPyTorch) {
  const GoldenFile golden("optim_scaler");
  const std::vector<uint8_t> infinite = golden.values<uint8_t>("infinite");
  const std::vector<double> scale = golden.values<double>("scale");
  const std::vector<int64_t> tracker = golden.values<int64_t>("tracker");
  GradScaler scaler({.init_scale = 8192,
                     .growth_factor = 1.7,
                     .backoff_factor = 0.4,
                     .growth_interval = 5,
                     .min_scale = 1e-30});
  Problem p;
  for (size_t i = 0; i < infinite.size(); ++i) {
    EXPECT_EQ(p.iterate(scaler, infinite[i]), !infinite[i]);
    ASSERT_EQ(scaler.scale(), scale[i]) << "after update " << i;
    ASSERT_EQ(scaler.growth_tracker(), tracker[i]) << "after update " << i;
  }
}

TEST(GradScaler, StepIsOfTheUnscaledGradient) {
  GradScaler scaler({.init_scale = 1024});
  Problem p;
  const Tensor loss = nn::sum(p.w * 3.0);
  backward(scaler.scale(loss));
  EXPECT_EQ(p.w.grad().values<float>()[0], 3072);
  EXPECT_TRUE(scaler.step(p.sgd));
  scaler.update();
  EXPECT_EQ(p.w.values<float>()[0], -3);
}

TEST(GradScaler, UnscalesBeforeClipping) {
  GradScaler scaler({.init_scale = 1024});
  Problem p;
  p.gradient(3 * 1024);
  scaler.unscale_(p.sgd);
  EXPECT_NEAR(clip_grad_norm_(p.sgd, 1), 3 * std::sqrt(2.0), 1e-6);
  EXPECT_TRUE(scaler.step(p.sgd));
  scaler.update();
  EXPECT_NEAR(p.w.values<float>()[0], -1 / std::sqrt(2.0), 1e-6);
}

// A scale far too large at first: the scaler finds one that fits, and training goes on in fp16.
TEST(GradScaler, TrainsInHalfPrecision) {
  manual_seed(6);
  nn::Mlp mlp({4, 16, 2});
  Sgd sgd(mlp.named_parameters(), {.lr = 0.2});
  GradScaler scaler({.init_scale = 0x1p24});
  Tensor x({64, 4});
  nn::init::normal(x);
  std::vector<int64_t> classes;
  const std::vector<float> values = x.values<float>();
  for (size_t i = 0; i < 64; ++i) classes.push_back(values[4 * i] + values[4 * i + 1] > 0);
  const Tensor target = Tensor::of(classes, {64});
  double first = 0, last = 0;
  int skipped = 0;
  for (int i = 0; i < 120; ++i) {
    Tensor loss;
    {
      const nn::Autocast guard(nn::Precision::fp16);
      loss = nn::cross_entropy(mlp(x), target);
    }
    backward(scaler.scale(loss));
    skipped += !scaler.step(sgd);
    scaler.update();
    sgd.zero_grad();
    last = loss.item();
    if (i == 0) first = last;
  }
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, 30);
  EXPECT_LT(last, 0.5 * first);
  EXPECT_EQ(mlp.layers[0].weight.dtype(), DType::f32);
}

TEST(GradScaler, SkipsOnInfinityAndNaN) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    GradScaler scaler;
    Problem p;
    p.gradient(bad);
    EXPECT_FALSE(scaler.step(p.sgd));
    scaler.update();
    EXPECT_EQ(p.w.values<float>()[0], 0);
    EXPECT_EQ(scaler.scale(), 32768);
    EXPECT_EQ(scaler.skips(), 1);
    EXPECT_TRUE(p.iterate(scaler, false));
    EXPECT_EQ(scaler.skips(), 0);
  }
}

TEST(GradScaler, OptimizersAreSkippedOneByOneButScaleTogether) {
  GradScaler scaler;
  Problem good, bad;
  good.gradient(1);
  bad.gradient(NAN);
  EXPECT_TRUE(scaler.step(good.sgd));
  EXPECT_FALSE(scaler.step(bad.sgd));
  scaler.update();
  EXPECT_EQ(scaler.scale(), 32768);
}

// Rows: what was called in this iteration; columns: what may be called next.
TEST(GradScaler, TransitionTable) {
  enum Call { kUnscale, kStep, kUpdate };
  struct Row {
    std::vector<Call> before;
    bool unscale, step, update;  // allowed next
  };
  const Row table[] = {
      {{}, true, true, false},
      {{kUnscale}, false, true, true},
      {{kStep}, false, false, true},
      {{kUnscale, kStep}, false, false, true},
      {{kUnscale, kUpdate}, true, true, false},
      {{kStep, kUpdate}, true, true, false},
  };
  const char* complaints[] = {"unscale_: ", "step: ", "update: "};
  for (const Row& row : table) {
    const bool allowed[] = {row.unscale, row.step, row.update};
    for (Call next : {kUnscale, kStep, kUpdate}) {
      GradScaler scaler;
      Problem p;
      p.gradient(1);
      const auto call = [&](Call c) {
        if (c == kUnscale) scaler.unscale_(p.sgd);
        if (c == kStep) scaler.step(p.sgd);
        if (c == kUpdate) scaler.update(), p.gradient(1);
      };
      for (Call c : row.before) call(c);
      if (allowed[next])
        EXPECT_NO_THROW(call(next)) << "after " << row.before.size() << " calls, call " << next;
      else
        EXPECT_THAT(error_text(ErrorKind::internal, [&] { call(next); }),
                    HasSubstr(complaints[next]));
    }
  }
}

TEST(GradScaler, StopsAtTheFloorAndAtTheLimitOfSkips) {
  GradScaler scaler({.init_scale = 16, .min_scale = 2, .max_skips = 6});
  Problem p;
  const double expected[] = {8, 4, 2, 2, 2};
  for (double scale : expected) {
    p.iterate(scaler, true);
    EXPECT_EQ(scaler.scale(), scale);
  }
  EXPECT_THAT(error_text(ErrorKind::non_finite, [&] { p.iterate(scaler, true); }),
              HasSubstr("6 iterations in a row"));
  GradScaler patient({.max_skips = 3});
  for (int i = 0; i < 20; ++i) p.iterate(patient, i % 3 != 2);  // never three in a row
}

TEST(GradScaler, GrowthStopsAtTheLargestFloat) {
  GradScaler scaler({.init_scale = 0x1p127, .growth_interval = 1});
  Problem p;
  p.iterate(scaler, false);
  EXPECT_EQ(scaler.scale(), 0x1p127);
  EXPECT_EQ(scaler.growth_tracker(), 0);
}

TEST(GradScaler, ResumesFromItsState) {
  GradScaler a({.growth_interval = 3}), b({.growth_interval = 3});
  Problem p;
  for (bool infinite : {false, true, true}) p.iterate(a, infinite);
  b.load_state(a.state());
  for (bool infinite : {false, false, false, true, false}) {
    p.iterate(a, infinite);
    p.iterate(b, infinite);
    EXPECT_EQ(a.scale(), b.scale());
    EXPECT_EQ(a.growth_tracker(), b.growth_tracker());
    EXPECT_EQ(a.skips(), b.skips());
  }
}

TEST(GradScaler, RefusesStateThatDoesNotFit) {
  GradScaler scaler;
  const auto refused = [&](size_t at, Tensor t) {
    std::vector<nn::NamedTensor> state = GradScaler({.init_scale = 4}).state();
    state[at].tensor = std::move(t);
    const std::string text = error_text(ErrorKind::checkpoint, [&] { scaler.load_state(state); });
    EXPECT_EQ(scaler.scale(), 65536);
    return text;
  };
  EXPECT_THAT(refused(0, Tensor::full({}, 0, DType::f64)), HasSubstr("scale > 0, got 0"));
  EXPECT_THAT(refused(0, Tensor::full({}, NAN, DType::f64)), HasSubstr("scale"));
  EXPECT_THAT(refused(1, Tensor::of<int64_t>({-1}, {})), HasSubstr("growth_tracker >= 0"));
  EXPECT_THAT(refused(2, Tensor::of<int64_t>({-1}, {})), HasSubstr("skips >= 0"));
  EXPECT_THAT(refused(1, Tensor::zeros({2}, DType::i64)),
              HasSubstr("growth_tracker should have shape"));
}

TEST(GradScaler, DisabledPassesThrough) {
  GradScaler scaler({.enabled = false});
  Problem p;
  const Tensor loss = Tensor::full({}, 3);
  EXPECT_TRUE(scaler.scale(loss).same(loss));
  p.gradient(2);
  scaler.unscale_(p.sgd);
  EXPECT_TRUE(scaler.step(p.sgd));
  EXPECT_TRUE(scaler.step(p.sgd));
  scaler.update();
  EXPECT_EQ(p.w.values<float>()[0], -4);
}

TEST(GradScaler, TakesAScaleOfTheProgramsOwn) {
  GradScaler scaler;
  scaler.update(128);
  EXPECT_EQ(scaler.scale(), 128);
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { scaler.update(0); }),
              HasSubstr("new_scale > 0"));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { scaler.update(NAN); }), HasSubstr("new_scale"));
}

TEST(GradScaler, NamesWhatIsWrong) {
  const auto text = [](const GradScalerOptions& o) {
    return error_text(ErrorKind::internal, [&] { GradScaler scaler(o); });
  };
  EXPECT_THAT(text({.init_scale = NAN}), HasSubstr("init_scale"));
  EXPECT_THAT(text({.init_scale = 0.5}), HasSubstr("init_scale >= min_scale 1, got 0.5"));
  EXPECT_THAT(text({.growth_factor = 1}), HasSubstr("growth_factor > 1, got 1"));
  EXPECT_THAT(text({.backoff_factor = 1}), HasSubstr("backoff_factor in (0, 1), got 1"));
  EXPECT_THAT(text({.growth_interval = 0}), HasSubstr("growth_interval > 0"));
  EXPECT_THAT(text({.min_scale = 0}), HasSubstr("min_scale > 0"));
  EXPECT_THAT(text({.max_skips = 0}), HasSubstr("max_skips > 0"));
  GradScaler scaler;
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { (void)scaler.scale(Tensor()); }),
              HasSubstr("undefined"));
}

}  // namespace
}  // namespace pinion::optim
