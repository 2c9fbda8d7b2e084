// SPDX-License-Identifier: Apache-2.0
// Layers over images: names, initial values, running statistics, weight files; and what the kernels
// under them promise beyond the rows of op_cases.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "op_harness.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers_image.h"
#include "pinion/nn/weights.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Block : nn::Module {
  nn::Conv2d conv{3, 4, 2, {.stride = 1, .padding = 1}};
  nn::BatchNorm2d bn{4};
  Tensor operator()(const Tensor& x) const { return bn(conv(x)); }
  void fields(nn::Fields& f) override { f("conv", conv), f("bn", bn); }
};

std::vector<std::string> names_of(const std::vector<nn::NamedTensor>& tensors) {
  std::vector<std::string> names;
  for (const nn::NamedTensor& t : tensors) names.push_back(t.name);
  return names;
}

TEST(ImageLayers, HaveTorchsNames) {
  Block block;
  EXPECT_THAT(names_of(block.named_parameters()),
              ElementsAre("conv.weight", "conv.bias", "bn.weight", "bn.bias"));
  EXPECT_THAT(names_of(block.named_buffers()),
              ElementsAre("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"));
}

TEST(ImageLayers, ConvStartsUniformWithinTheInverseRootOfItsFan) {
  manual_seed(7);
  const nn::Conv2d conv(64, 32, 3);
  ASSERT_EQ(conv.weight.shape(), (Shape{32, 3, 3, 64}));
  const float bound = 1 / std::sqrt(64.0f * 9);
  double squares = 0;
  float largest = 0;
  for (const float w : conv.weight.values<float>())
    squares += double(w) * double(w), largest = std::max(largest, std::abs(w));
  EXPECT_LE(largest, bound);
  EXPECT_GT(largest, 0.99f * bound);
  EXPECT_NEAR(squares / double(conv.weight.numel()), bound * bound / 3, 0.03 * bound * bound);
  for (const float b : conv.bias.values<float>()) EXPECT_LE(std::abs(b), bound);
}

// x = 1 2 | 3 4 in two images: by hand, with PyTorch's unbiased variance.
TEST(ImageLayers, RunningStatisticsFollowEachGroup) {
  const Tensor x = Tensor::of({1.0f, 2.0f, 3.0f, 4.0f}, {2, 1, 2, 1});
  nn::BatchNorm2d together(1), apart(1);
  EXPECT_NEAR(together(x).values<float>()[0], -1.5 / std::sqrt(1.25 + 1e-5), 1e-6);
  EXPECT_FLOAT_EQ(together.running_mean.values<float>()[0], 0.25f);
  EXPECT_FLOAT_EQ(together.running_var.values<float>()[0], 0.9f + 0.1f * 5 / 3);
  EXPECT_EQ(together.num_batches_tracked.item(), 1);
  EXPECT_NEAR(apart(x, {.groups = 2}).values<float>()[3], 0.5 / std::sqrt(0.25 + 1e-5), 1e-6);
  EXPECT_FLOAT_EQ(apart.running_mean.values<float>()[0], 0.15f * 0.9f + 0.35f);
  EXPECT_FLOAT_EQ(apart.running_var.values<float>()[0], (0.9f + 0.05f) * 0.9f + 0.05f);
  EXPECT_EQ(apart.num_batches_tracked.item(), 2);
}

TEST(ImageLayers, EvaluationUsesTheRunningStatisticsAndKeepsThem) {
  nn::BatchNorm2d bn(1);
  bn.running_mean = Tensor::of({3.0f}, {1});
  bn.running_var = Tensor::of({4.0f}, {1});
  bn.eval();
  const Tensor x = Tensor::of({7.0f, -1.0f}, {1, 2, 1, 1});
  EXPECT_THAT(bn(x, {.relu = true}).values<float>(),
              ElementsAre(::testing::FloatNear(2, 1e-5f), 0));
  EXPECT_EQ(bn.running_mean.item(), 3);
  EXPECT_EQ(bn.num_batches_tracked.item(), 0);
}

TEST(ImageLayers, SixteenBitModelsKeepTheirRunningStatistics) {
  nn::BatchNorm2d bn(2);
  bn.to(DType::bf16);
  const Tensor x = make_input(real({3, 4, 4, 2}), DType::bf16, 1);
  EXPECT_EQ(bn(x).dtype(), DType::bf16);
  EXPECT_EQ(bn.running_var.dtype(), DType::bf16);
  EXPECT_NE(reals(bn.running_var)[0], 1);
}

// --- weight files -----------------------------------------------------------------------------

TEST(ImageWeights, FilesHoldFiltersInTorchsOrder) {
  const std::string path = ::testing::TempDir() + "image_weights.safetensors";
  Block block;
  std::vector<float> values;
  for (int i = 0; i < 4 * 2 * 2 * 3; ++i) values.push_back(static_cast<float>(i));
  block.conv.weight = Tensor::of(values, {4, 2, 2, 3}).requires_grad(true);
  block(make_input(real({2, 5, 5, 3}), DType::f32, 1));
  nn::save_weights(block, path);

  const SafetensorsReader file(path);
  const SafetensorsEntry* entry = file.find("conv.weight");
  ASSERT_NE(entry, nullptr);
  EXPECT_THAT(entry->shape, ElementsAre(4, 3, 2, 2));
  const std::vector<float> stored = file.load(*entry).values<float>();
  for (size_t k = 0; k < 4; ++k)
    for (size_t c = 0; c < 3; ++c)
      for (size_t rs = 0; rs < 4; ++rs)
        ASSERT_EQ(stored[(k * 3 + c) * 4 + rs], values[(k * 4 + rs) * 3 + c]);

  Block other;
  nn::load_weights(other, path);
  const auto left = block.state(), right = other.state();
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i)
    EXPECT_EQ(bits(left[i].tensor), bits(right[i].tensor)) << left[i].name;
}

TEST(ImageWeights, FiltersOfAnotherShapeAreRefusedInTorchsOrder) {
  const std::string path = ::testing::TempDir() + "image_weights.safetensors";
  struct One : nn::Module {
    explicit One(int64_t in) : conv(in, 4, 2, {}, false) {}
    nn::Conv2d conv;
    void fields(nn::Fields& f) override { f("conv", conv); }
  };
  One saved(3), wanted(5);
  nn::save_weights(saved, path);
  try {
    nn::load_weights(wanted, path);
    FAIL() << "filters of another shape were loaded";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::checkpoint);
    EXPECT_THAT(e.what(), HasSubstr("conv.weight should have shape [4,5,2,2], got [4,3,2,2]"));
  }
}

// --- operations ---------------------------------------------------------------------------------

TEST(MaxPool, FirstOfEqualsWinsNanWinsAndPaddingNeverDoes) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const auto pooled = [](std::vector<float> values, std::vector<float> expected) {
    Tensor x = Tensor::of(values, {1, 2, 2, 1}).requires_grad(true);
    const Tensor y = nn::max_pool2d(x, {.window = 2, .stride = 2});
    backward(y, Tensor::full(y.shape(), 5));
    EXPECT_EQ(x.grad().values<float>(), expected);
    return y.values<float>()[0];
  };
  EXPECT_EQ(pooled({1, 3, 3, 2}, {0, 5, 0, 0}), 3);
  EXPECT_TRUE(std::isnan(pooled({9, kNan, 3, kNan}, {0, 5, 0, 0})));
  const float low = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(pooled({low, low, low, low}, {5, 0, 0, 0}), low);
  const Tensor below = Tensor::full({1, 3, 3, 1}, -2);
  for (const float v :
       nn::max_pool2d(below, {.window = 3, .stride = 2, .padding = 1}).values<float>())
    EXPECT_EQ(v, -2);
}

TEST(ImageOps, OfNoImagesAreEmpty) {
  Tensor x = Tensor::zeros({0, 5, 5, 3}).requires_grad(true);
  Tensor w = Tensor::full({2, 3, 3, 3}, 1).requires_grad(true);
  const Tensor y = nn::max_pool2d(nn::conv2d(x, w), {.window = 2});
  EXPECT_EQ(y.shape(), (Shape{0, 2, 2, 2}));
  backward(y, Tensor::zeros(y.shape()));
  EXPECT_EQ(x.grad().shape(), x.shape());
  for (const float g : w.grad().values<float>()) EXPECT_EQ(g, 0);
}

// Many chunks with groups and ReLU: the large row of op_cases.h has no ReLU, whose mask differs
// between types.
TEST(ImageOps, BatchNormWithReluIsTheSameOnAnyNumberOfThreads) {
  const auto run = [](int threads) {
    const CpuContextGuard guard(threads);
    Tensors x;
    for (const Shape& s : {Shape{6, 40, 41, 33}, Shape{33}, Shape{33}, Shape{6, 40, 41, 33}})
      x.push_back(make_input(real(s), DType::f32, 5).requires_grad(true));
    const Tensor y = batch_norm_of(x, {.groups = 3, .relu = true});
    backward(y, make_cotangent(y));
    std::string all = bits(y.detach());
    for (size_t i = 0; i < x.size(); ++i) all += bits(x[i].grad());
    return all;
  };
  const std::string one = run(1);
  for (const int threads : {2, 8}) EXPECT_TRUE(run(threads) == one) << threads << " threads";
}

}  // namespace
}  // namespace pinion::testing
