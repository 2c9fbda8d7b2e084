// SPDX-License-Identifier: Apache-2.0
// What ops promise beyond their formulas: shared memory, ties, noise, empty tensors, what they
// keep.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "op_harness.h"

namespace pinion::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Tensor leaf(const std::vector<float>& values, const Shape& shape) {
  return Tensor::of(values, shape).requires_grad(true);
}

std::vector<float> grad(const Tensor& x) { return x.grad().values<float>(); }

TEST(Sharing, ReshapeAndLeadingSliceAreViewsOthersAreCopies) {
  const Tensor x = make_input(real({4, 6}), DType::f32, 1);
  const auto* data = static_cast<const float*>(x.view().data);
  EXPECT_EQ(nn::reshape(x, {2, 12}).view().data, data);
  EXPECT_EQ(nn::slice(x, 0, 1, 3).view().data, data + 6);
  const Tensor column = nn::slice(x, 1, 0, 6), turned = nn::transpose(x, 0, 1);
  EXPECT_NE(column.view().data, data);
  EXPECT_NE(turned.view().data, data);
}

// As in PyTorch, where the gradient of a standard deviation that is 0 is 0.
TEST(LayerNorm, OfEqualElementsIsBetaAndHasAGradient) {
  const Tensor x = leaf({3, 3, 3}, {1, 3}), gamma = leaf({1, 1, 1}, {3});
  const Tensor y =
      nn::layer_norm(x, gamma, leaf({4, 5, 6}, {3}), 0.25, LayerNormForm::unbiased_std);
  EXPECT_THAT(y.values<float>(), ElementsAre(4, 5, 6));
  backward(y, Tensor::of({1.0f, 2.0f, 6.0f}, {1, 3}));
  EXPECT_THAT(grad(x), ElementsAre(-8, -4, 12));
  EXPECT_THAT(grad(gamma), ElementsAre(0, 0, 0));
}

TEST(Maximum, OfEqualElementsIsTheFirst) {
  const Tensor x = leaf({1, 3, 3, 2, 5, 0, 5, 5}, {2, 4});
  const Tensor y = nn::max(x, 1);
  EXPECT_THAT(y.values<float>(), ElementsAre(3, 5));
  EXPECT_THAT(nn::argmax(x, 1).values<int64_t>(), ElementsAre(1, 0));
  backward(y, Tensor::of({10.0f, 20.0f}, {2}));
  EXPECT_THAT(grad(x), ElementsAre(0, 10, 0, 0, 20, 0, 0, 0));
}

TEST(Maximum, NanWinsAndMinusInfinityCounts) {
  const Tensor x = Tensor::of<float>({1, kNan, 3, -kInf, -kInf, -kInf}, {2, 3});
  EXPECT_THAT(nn::argmax(x, 1).values<int64_t>(), ElementsAre(1, 0));
  const std::vector<float> y = nn::max(x, 1).values<float>();
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], -kInf);
}

// --- noise ----------------------------------------------------------------------------------

TEST(Dropout, ZeroesAndScales) {
  constexpr int64_t kCount = 100000;
  const Tensor x = Tensor::full({kCount}, 3).requires_grad(true);
  const PhiloxKey key{42, 1, 5};
  const Tensor y = nn::dropout(x, 0.25, key);
  const std::vector<float> values = y.values<float>();
  int64_t kept = 0;
  for (const float v : values) {
    ASSERT_TRUE(v == 0 || v == 4) << v;
    kept += v == 4;
  }
  EXPECT_NEAR(static_cast<double>(kept) / kCount, 0.75, 0.01);  // 7 standard deviations
  backward(y, Tensor::full({kCount}, 3));
  EXPECT_EQ(grad(x), values) << "the gradient passes where the value did";
}

TEST(Dropout, IsAFunctionOfItsKey) {
  const Tensor x = Tensor::full({64}, 1);
  const auto draw = [&](uint64_t seed, uint32_t stream, uint64_t step) {
    return bits(nn::dropout(x, 0.5, {seed, stream, step}));
  };
  const std::string first = draw(1, 2, 3);
  EXPECT_EQ(draw(1, 2, 3), first);
  EXPECT_NE(draw(2, 2, 3), first);
  EXPECT_NE(draw(1, 3, 3), first);
  EXPECT_NE(draw(1, 2, 4), first);
}

TEST(Dropout, OfProbabilityZeroIsTheInputItself) {
  const Tensor x = leaf({1, 2}, {2});
  EXPECT_TRUE(nn::dropout(x, 0, {}).same(x));
}

// --- values outside the ordinary ------------------------------------------------------------

TEST(Special, NanStaysNan) {
  const Tensor x = Tensor::of({kNan, 1.0f}, {2});
  for (const Tensor& y : {nn::relu(x), nn::gelu(x), nn::sigmoid(x), nn::tanh(x), nn::exp(x),
                          nn::log(x), nn::softmax(x), nn::log_softmax(x)}) {
    EXPECT_TRUE(std::isnan(y.values<float>()[0]));
  }
}

TEST(Special, SoftmaxOfLargeAndMaskedLogits) {
  const Tensor x = Tensor::of({1000.0f, 1000.0f, -kInf}, {3});
  EXPECT_THAT(nn::softmax(x).values<float>(), ElementsAre(0.5f, 0.5f, 0.0f));
  const std::vector<float> logs = nn::log_softmax(x).values<float>();
  EXPECT_FLOAT_EQ(logs[0], -std::log(2.0f));
  EXPECT_EQ(logs[2], -kInf);
}

TEST(Special, CrossEntropyOfLargeLogits) {
  const Tensor x = leaf({1000, -1000, 0}, {1, 3});
  const Tensor loss = nn::cross_entropy(x, Tensor::of<int64_t>({1}, {1}));
  EXPECT_FLOAT_EQ(static_cast<float>(loss.item()), 2000);
  backward(loss);
  EXPECT_THAT(grad(x), ElementsAre(1, -1, 0));
}

TEST(CrossEntropy, OfNothingButIgnoredTokensIsNan) {
  const Tensor x = leaf({1, 2, 3, 4}, {2, 2});
  const Tensor loss = nn::cross_entropy(x, Tensor::of<int64_t>({-100, -100}, {2}));
  EXPECT_TRUE(std::isnan(loss.item()));
}

TEST(CrossEntropy, ScalesItsGradient) {
  const Tensor x = leaf({1, 2, 3, 4}, {2, 2}), z = leaf({1, 2, 3, 4}, {2, 2});
  const Tensor target = Tensor::of<int64_t>({0, 1}, {2});
  backward(nn::cross_entropy(x, target));
  backward(nn::cross_entropy(z, target) * 65536);
  EXPECT_EQ(grad(z), (x.grad() * 65536).values<float>());
}

TEST(CrossEntropy, ScalesAHalfGradientPastTheRangeOfHalf) {
  // A loss scale of 2^17 is no f16, but scale times gradient is: dy must not be rounded to f16.
  const Tensor x = make_input(real({64, 8}), DType::f16, 1).requires_grad(true);
  const Tensor y = nn::cross_entropy(x, Tensor::zeros({64}, DType::i64));
  EXPECT_EQ(y.dtype(), DType::f32);
  backward(y * 131072);
  for (const double g : reals(x.grad())) ASSERT_TRUE(std::isfinite(g));
}

// --- empty tensors --------------------------------------------------------------------------

TEST(Empty, RowsGiveEmptyResultsAndZeroGradients) {
  const Tensor x = leaf({}, {0, 3}), w = leaf(std::vector<float>(15, 1), {5, 3});
  const Tensor b = leaf(std::vector<float>(5, 1), {5});
  const Tensor y = nn::linear(x, w, b, Activation::relu);
  EXPECT_EQ(y.shape(), Shape({0, 5}));
  backward(nn::sum(nn::softmax(nn::gelu(y))));
  EXPECT_EQ(x.grad().shape(), Shape({0, 3}));
  EXPECT_THAT(grad(w), Each(0.0f));
  EXPECT_THAT(grad(b), Each(0.0f));
}

TEST(Empty, InnerDimensionGivesZeros) {
  const Tensor x = leaf({}, {2, 0}), w = leaf({}, {3, 0});
  const Tensor y = nn::linear(x, w);
  EXPECT_THAT(y.values<float>(), Each(0.0f));
  backward(nn::sum(y));
  EXPECT_EQ(w.grad().shape(), Shape({3, 0}));
  EXPECT_THAT(nn::matmul(x, Tensor({0, 4})).values<float>(), Each(0.0f));
  EXPECT_THAT(nn::bmm(Tensor({2, 3, 0}), Tensor({2, 0, 2})).values<float>(), Each(0.0f));
}

TEST(Empty, SumIsZeroAndMeanIsNan) {
  const Tensor x({0, 3});
  EXPECT_EQ(nn::sum(x).item(), 0);
  EXPECT_TRUE(std::isnan(nn::mean(x).item()));
  EXPECT_THAT(nn::sum(x, 0).values<float>(), Each(0.0f));
  EXPECT_EQ(nn::sum(x, 1).shape(), Shape({0}));
  EXPECT_EQ(nn::max(x, 1).shape(), Shape({0}));
}

TEST(Empty, PartsAndIdsAreFine) {
  const Tensor x = leaf({1, 2}, {2, 1}), nothing = leaf({}, {0, 1});
  const Tensor y = nn::concat({x, nothing, x}, 0);
  EXPECT_THAT(y.values<float>(), ElementsAre(1, 2, 1, 2));
  backward(nn::sum(y));
  EXPECT_THAT(grad(x), ElementsAre(2, 2));
  EXPECT_EQ(nn::slice(x, 1, 1, 1).shape(), Shape({2, 0}));
  EXPECT_EQ(nn::slice(x, 0, 2, 2).shape(), Shape({0, 1}));
  const Tensor row = nn::embedding(x, Tensor({0, 3}, DType::i64));
  EXPECT_EQ(row.shape(), Shape({0, 3, 1}));
  backward(nn::sum(row));
  EXPECT_THAT(grad(x), ElementsAre(2, 2)) << "adds zeros";
}

// --- other dtypes ---------------------------------------------------------------------------

TEST(Integers, MoveThroughShapeOps) {
  const Tensor x = Tensor::of<int64_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  EXPECT_THAT(nn::transpose(x, 0, 1).values<int64_t>(), ElementsAre(1, 4, 2, 5, 3, 6));
  EXPECT_THAT(nn::slice(x, 1, 1, 3).values<int64_t>(), ElementsAre(2, 3, 5, 6));
  EXPECT_THAT(nn::concat({x, x}, 1).values<int64_t>(),
              ElementsAre(1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6));
  EXPECT_EQ(nn::reshape(x, {6}).dtype(), DType::i64);
  EXPECT_THAT(nn::cast(x, DType::f32).values<float>(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(Cast, ToAnIntegerCutsTheGraphAndToItselfDoesNothing) {
  const Tensor x = leaf({1.75f, -1.75f}, {2});
  EXPECT_FALSE(nn::cast(x, DType::i32).requires_grad());
  EXPECT_THAT(nn::cast(x, DType::i32).values<int32_t>(), ElementsAre(1, -1));
  EXPECT_TRUE(nn::cast(x, DType::f32).same(x));
}

// --- memory ---------------------------------------------------------------------------------

int64_t live_bytes() { return memory_stats({}).live; }

TEST(Saved, IsOnlyWhatTheBackwardPassReads) {
  const Tensor x = Tensor::full({1000}, 0.5).requires_grad(true);
  const int64_t before = live_bytes();
  Tensor y = nn::sum((x * 2 + 1) * 3);
  EXPECT_EQ(live_bytes() - before, 4) << "a linear chain saves nothing";
  y = nn::sum(nn::relu(x * 2) * 3);
  EXPECT_EQ(live_bytes() - before, 4000 + 4) << "ReLU saves its result, not its argument";
  const Tensor constant = Tensor::full({1000}, 2);
  y = nn::sum((x * 2) * constant);
  EXPECT_EQ(live_bytes() - before, 4000 + 4) << "the constant; nobody wants its gradient";
  y = nn::mean(nn::concat({x * 2, nn::slice(x * 3, 0, 0, 500)}, 0));
  EXPECT_EQ(live_bytes() - before, 4000 + 4);
}

TEST(Saved, LinearKeepsNoInputsForFrozenWeights) {
  const Tensor w = Tensor::full({8, 1000}, 0.5);
  const Tensor x = Tensor::full({16, 1000}, 0.5).requires_grad(true);
  const int64_t before = live_bytes();
  const Tensor y = nn::linear(x * 2, w);
  EXPECT_EQ(live_bytes() - before, 16 * 8 * 4);
}

TEST(Saved, AttentionKeepsALogarithmPerRow) {
  const Tensor q = Tensor::full({2, 32, 4, 8}, 1).requires_grad(true);
  const int64_t before = live_bytes();
  const Tensor y = nn::attention(q, q, q);
  EXPECT_EQ(live_bytes() - before, 2 * 32 * 4 * 8 * 4 + 2 * 4 * 32 * 4);
}

TEST(Saved, CrossEntropyMakesAGradientOnlyWhereOneIsNeeded) {
  const Tensor logits = Tensor::full({100, 1000}, 0.5).requires_grad(true);
  const Tensor target = Tensor::zeros({100}, DType::i64);
  reset_peak({});
  const int64_t before = live_bytes();
  {
    const NoGrad no_grad;
    nn::cross_entropy(logits, target);
    nn::cross_entropy(logits.detach(), target);
  }
  EXPECT_LT(memory_stats({}).peak - before, 100 * 1000 * 4);
  const Tensor loss = nn::cross_entropy(logits, target);
  EXPECT_GE(live_bytes() - before, 100 * 1000 * 4);
  backward(loss);
  EXPECT_LT(live_bytes() - before, 2 * 100 * 1000 * 4) << "the saved block became the gradient";
}

}  // namespace
}  // namespace pinion::testing
