// SPDX-License-Identifier: Apache-2.0
// Means, accuracy, confusion matrices.
#include "pinion/accel/track/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Mean, WeighsWhatItIsGiven) {
  Mean mean;
  EXPECT_TRUE(std::isnan(mean.value()));
  mean.add(1);
  mean.add(4, 2);
  EXPECT_DOUBLE_EQ(mean.value(), 3);
  mean.reset();
  EXPECT_TRUE(std::isnan(mean.value()));
}

TEST(Accuracy, CountsTheFirstLargestLogit) {
  Accuracy accuracy;
  EXPECT_TRUE(std::isnan(accuracy.value()));
  const Tensor logits = Tensor::of<float>({0, 1, 2,        //
                                           5, 1, 2,        //
                                           3, 3, 0,        // the first of equals
                                           1, kNaN, kInf,  // NaN is the largest
                                           -kInf, -kInf, -1},
                                          {5, 3});
  accuracy.add(logits, Tensor::of<int64_t>({2, 1, 0, 1, 2}, {5}));
  EXPECT_EQ(accuracy.correct(), 4);
  EXPECT_EQ(accuracy.total(), 5);
  accuracy.add(1, 5);
  EXPECT_DOUBLE_EQ(accuracy.value(), 0.5);
  EXPECT_EQ(predicted_classes(logits), (std::vector<int64_t>{2, 0, 0, 1, 2}));
}

TEST(Accuracy, TakesEveryFloatingType) {
  const Tensor labels = Tensor::of<int64_t>({1, 0}, {2});
  const auto check = [&](const Tensor& logits) {
    Accuracy accuracy;
    accuracy.add(logits, labels);
    EXPECT_EQ(accuracy.correct(), 1);
  };
  check(Tensor::of<double>({1, 2, 1, 2}, {2, 2}));
  check(Tensor::of<BFloat16>({BFloat16(1), BFloat16(2), BFloat16(1), BFloat16(2)}, {2, 2}));
  check(Tensor::of<Half>({Half(1), Half(2), Half(1), Half(2)}, {2, 2}));
}

TEST(Accuracy, RefusesWhatDoesNotFit) {
  Accuracy accuracy;
  const Tensor logits = Tensor::zeros({2, 3});
  EXPECT_THAT(error_of([&] { accuracy.add(logits, Tensor::zeros({2})); }).what(),
              testing::HasSubstr("labels must be i64, got f32"));
  EXPECT_THAT(error_of([&] { accuracy.add(logits, Tensor::zeros({3}, DType::i64)); }).what(),
              testing::HasSubstr("[3] for [2,3]"));
  EXPECT_THAT(
      error_of([&] { accuracy.add(Tensor::zeros({2}), Tensor::zeros({2}, DType::i64)); }).what(),
      testing::HasSubstr("Accuracy"));
  EXPECT_EQ(accuracy.total(), 0);
}

ConfusionMatrix example() {
  ConfusionMatrix m({"cat", "dog", "emu"});
  for (int i = 0; i < 8; ++i) m.add(0, 0);
  for (int i = 0; i < 2; ++i) m.add(0, 1);
  for (int i = 0; i < 6; ++i) m.add(1, 1);
  for (int i = 0; i < 4; ++i) m.add(1, 0);
  return m;
}

TEST(ConfusionMatrix, KnowsPrecisionAndRecall) {
  const ConfusionMatrix m = example();
  EXPECT_EQ(m.count(1, 0), 4);
  EXPECT_EQ(m.total(), 20);
  EXPECT_EQ(m.support(0), 10);
  EXPECT_DOUBLE_EQ(m.accuracy(), 0.7);
  EXPECT_DOUBLE_EQ(m.precision(0), 8.0 / 12);
  EXPECT_DOUBLE_EQ(m.recall(0), 0.8);
  EXPECT_DOUBLE_EQ(m.f1(0), 16.0 / 22);
  EXPECT_EQ(m.precision(2), 0);  // never predicted, never there
  EXPECT_EQ(m.recall(2), 0);
  EXPECT_EQ(m.f1(2), 0);
  EXPECT_TRUE(std::isnan(ConfusionMatrix(2).accuracy()));
}

TEST(ConfusionMatrix, CountsTensors) {
  ConfusionMatrix m(2);
  m.add(Tensor::of<float>({0, 1, 1, 0, 0, 1}, {3, 2}), Tensor::of<int64_t>({1, 1, 0}, {3}));
  EXPECT_EQ(m.count(1, 1), 1);
  EXPECT_EQ(m.count(1, 0), 1);
  EXPECT_EQ(m.count(0, 1), 1);
  EXPECT_EQ(m.name(1), "1");
}

TEST(ConfusionMatrix, PrintsATable) {
  EXPECT_EQ(example().text(),
            "true \\ predicted  cat  dog  emu  precision  recall\n"
            "cat                 8    2    0      66.7%   80.0%\n"
            "dog                 4    6    0      75.0%   60.0%\n"
            "emu                 0    0    0       0.0%    0.0%\n");
}

TEST(ConfusionMatrix, KeepsLongAndHostileNamesInTheirColumn) {
  ConfusionMatrix m({"a name that is much longer than any column should be", "\x1b[31m", "größe"});
  m.add(2, 2);
  const std::string text = m.text();
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_THAT(text, testing::HasSubstr("…"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
}

TEST(ConfusionMatrix, RefusesClassesItDoesNotHave) {
  ConfusionMatrix m(2);
  EXPECT_THAT(error_of([&] { m.add(0, 2); }).what(), testing::HasSubstr("[0, 2), got 0 and 2"));
  EXPECT_THAT(error_of([&] { m.add(-1, 0); }).what(), testing::HasSubstr("got -1"));
  EXPECT_THAT(error_of([&] { ConfusionMatrix none(std::vector<std::string>{}); }).what(),
              testing::HasSubstr("at least one class"));
}

}  // namespace
}  // namespace pinion::accel
