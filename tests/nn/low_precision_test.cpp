// SPDX-License-Identifier: Apache-2.0
// The 16-bit copies that optimizers keep for autocast: equal to rounding after the step, taken
// while they are current and only then.
#include "pinion/nn/low_precision.h"

#include <gtest/gtest.h>

#include "low_precision_testing.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/sgd.h"

namespace pinion::testing {
namespace {

using nn::Autocast;
using nn::LowPrecisionCopy;
using nn::Precision;

TEST(LowPrecisionCopy, IsWhatACastAfterTheStepWouldBe) { expect_copies_are_casts({}); }

struct Net {
  nn::Linear layer{5, 3, false};
  optim::Sgd sgd{layer.named_parameters(), {.lr = 0.5}};
  Tensor out;

  void forward(Precision p = Precision::bf16) {
    const Autocast guard(p);
    out = layer(Tensor::full({2, 5}, 1));
  }
  void step() {
    layer.weight.set_grad(Tensor::full({3, 5}, 0.3));
    sgd.step();
  }
  Tensor copy(DType t = DType::bf16) const { return LowPrecisionCopy::find(layer.weight, t); }
};

TEST(LowPrecisionCopy, IsMadeOnceSomebodyAsks) {
  Net net;
  net.step();
  EXPECT_FALSE(net.copy().defined());  // which asks
  net.step();
  EXPECT_TRUE(net.copy().defined());
  EXPECT_FALSE(net.copy(DType::f16).defined());  // asks for the other type
  net.step();
  EXPECT_TRUE(net.copy(DType::f16).defined());
  net.step();
  net.step();  // nobody has asked since the step before
  EXPECT_FALSE(net.copy(DType::f16).defined());
  EXPECT_FALSE(LowPrecisionCopy::find(Tensor::zeros({3}), DType::bf16).defined());
}

TEST(LowPrecisionCopy, IsWhatAutocastReads) {
  Net net;
  net.forward();
  net.step();
  net.forward();
  EXPECT_NE(float(net.out.values<BFloat16>()[0]), 0);
  net.step();
  Tensor planted = net.copy();
  on({}, [&](auto& ctx) { kernels::fill(ctx, planted.mut(), 0); });
  net.forward();
  EXPECT_EQ(float(net.out.values<BFloat16>()[0]), 0);  // no rounding of the weights took place
}

TEST(LowPrecisionCopy, IsOutdatedOnceTheParameterIsWritten) {
  Net net;
  net.forward();
  net.step();
  EXPECT_TRUE(net.copy().defined());
  on({}, [&](auto& ctx) { kernels::fill(ctx, net.layer.weight.mut(), 2); });
  EXPECT_FALSE(net.copy().defined());
  net.forward();
  EXPECT_EQ(float(net.out.values<BFloat16>()[0]), 10);
  net.step();
  expect_cast(net.layer.weight, net.copy());
}

TEST(LowPrecisionCopy, CoversParametersThatAStepLeavesAlone) {
  Tensor a = Tensor::full({3}, 1.25).requires_grad(true);
  Tensor b = Tensor::full({20}, -1.75).requires_grad(true);
  optim::Adam adam({{"a", a}, {"b", b}});
  EXPECT_FALSE(LowPrecisionCopy::find(a, DType::f16).defined());
  b.set_grad(Tensor::full({20}, 1));
  adam.step();
  for (int step = 0; step < 3; ++step) {
    for (const Tensor& p : {a, b}) expect_cast(p, LowPrecisionCopy::find(p, DType::f16));
    adam.step();
  }
}

TEST(LowPrecisionCopy, GoesWithItsOptimizer) {
  Tensor a = Tensor::full({300}, 1).requires_grad(true);
  const int64_t before = memory_stats({}).live;
  {
    optim::Sgd sgd({{"a", a}}, {.lr = 1});
    LowPrecisionCopy::find(a, DType::bf16);
    a.set_grad(Tensor::full({300}, 1));
    sgd.step();
    EXPECT_TRUE(LowPrecisionCopy::find(a, DType::bf16).defined());
  }
  EXPECT_FALSE(LowPrecisionCopy::find(a, DType::bf16).defined());
  a = {};
  EXPECT_LT(memory_stats({}).live, before);
}

}  // namespace
}  // namespace pinion::testing
