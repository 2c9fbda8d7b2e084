// SPDX-License-Identifier: Apache-2.0
// Layers: what they compute, their modes, their random streams, and their bad arguments.
#include "pinion/nn/layers.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "pinion/nn/init.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::nn {
namespace {

using testing::error_text;
using ::testing::HasSubstr;

TEST(Layers, LinearAppliesWeightBiasAndActivation) {
  Linear linear(2, 2);
  linear.load_state({{"weight", Tensor::of<float>({1, 2, -3, 4}, {2, 2})},
                     {"bias", Tensor::of<float>({0.5, -1}, {2})}});
  const Tensor x = Tensor::of<float>({1, 1, 2, 0}, {2, 1, 2});
  EXPECT_EQ(linear(x).shape(), Shape({2, 1, 2}));
  EXPECT_EQ(linear(x).values<float>(), (std::vector<float>{3.5, 0, 2.5, -7}));
  EXPECT_EQ(linear(x, Activation::relu).values<float>(), (std::vector<float>{3.5, 0, 2.5, 0}));
  Linear plain(2, 3, false);
  EXPECT_EQ(plain.named_parameters().size(), 1u);
  EXPECT_EQ(plain(x).shape(), Shape({2, 1, 3}));
}

TEST(Layers, EmbeddingTrainsAllRowsButPadding) {
  Embedding table(4, 2, 1);
  const Tensor y = table(Tensor::of<int64_t>({1, 3, 3}, {3}));
  EXPECT_EQ(y.rows(0, 1).values<float>(), (std::vector<float>{0, 0}));
  backward(sum(y));
  EXPECT_EQ(table.weight.grad().values<float>(), (std::vector<float>{0, 0, 0, 0, 0, 0, 2, 2}));
}

TEST(Layers, MlpIsItsLayersInTurn) {
  manual_seed(8);
  Mlp mlp({3, 5, 4, 2}, Activation::gelu);
  EXPECT_EQ(mlp.named_parameters()[2].name, "layers.1.weight");
  EXPECT_EQ(mlp.named_parameters().size(), 6u);
  const Tensor x = Tensor::of<float>({1, -2, 3, 0.5, 0, -1}, {2, 3});
  const Tensor by_hand = mlp.layers[2](gelu(mlp.layers[1](gelu(mlp.layers[0](x)))));
  const std::vector<float> a = mlp(x).values<float>(), b = by_hand.values<float>();
  ASSERT_EQ(a.size(), 4u);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6);
}

TEST(Layers, DropoutDropsAndScalesInTrainingOnly) {
  manual_seed(1);
  Dropout layer(0.25);
  const Tensor x = Tensor::full({100, 100}, 3);
  const std::vector<float> y = layer(x).values<float>();
  const auto dropped = std::count(y.begin(), y.end(), 0.0f);
  EXPECT_NEAR(static_cast<double>(dropped), 2500, 5 * std::sqrt(10000 * 0.25 * 0.75));
  EXPECT_EQ(std::count(y.begin(), y.end(), 4.0f), 10000 - dropped);
  layer.eval();
  EXPECT_TRUE(layer(x).same(x));
  Dropout none(0), all(1);
  EXPECT_TRUE(none(x).same(x));
  EXPECT_EQ(all(x).values<float>(), std::vector<float>(10000, 0.0f));
}

TEST(Layers, DropoutDrawsBySeedStreamAndCall) {
  manual_seed(1);
  Dropout a(0.5), b(0.5);
  const Tensor x = Tensor::full({64}, 1);
  const std::vector<float> first = a(x).values<float>(), second = a(x).values<float>();
  EXPECT_NE(first, second);
  EXPECT_NE(b(x).values<float>(), first);
  manual_seed(1);
  Dropout again(0.5);
  EXPECT_EQ(again(x).values<float>(), first);
  again.load_counters({{"calls", 1}});  // as a resumed run does
  EXPECT_EQ(again(x).values<float>(), second);
  again.eval();
  again(x);
  EXPECT_EQ(again.counters()[0].count, 2u);
  manual_seed(2);
  Dropout other(0.5);
  EXPECT_NE(other(x).values<float>(), first);
}

TEST(Layers, DropoutGradientHasTheSameMask) {
  Dropout layer(0.5);
  Tensor x = Tensor::full({256}, 1);
  x.requires_grad(true);
  const Tensor y = layer(x);
  backward(sum(y));
  EXPECT_EQ(x.grad().values<float>(), y.values<float>());
}

TEST(Layers, NamesWhatIsWrong) {
  const auto text = [](auto f) { return error_text(ErrorKind::internal, f); };
  EXPECT_THAT(text([] { Linear(0, 3); }),
              HasSubstr("Linear: expected in > 0 and out > 0, got in 0"));
  EXPECT_THAT(text([] { Linear(3, -1); }), HasSubstr("out -1"));
  EXPECT_THAT(text([] { Embedding(0, 3); }), HasSubstr("Embedding: expected count > 0"));
  EXPECT_THAT(text([] { Embedding(3, 3, 3); }), HasSubstr("padding in [-1, 3), got 3"));
  EXPECT_THAT(text([] { LayerNorm(0); }), HasSubstr("LayerNorm: expected width > 0"));
  EXPECT_THAT(text([] { LayerNorm(3, NAN); }), HasSubstr("eps"));
  EXPECT_THAT(text([] { Dropout(1.5); }), HasSubstr("Dropout: expected p in [0, 1], got 1.5"));
  EXPECT_THAT(text([] { Dropout{NAN}; }), HasSubstr("p in [0, 1]"));
  EXPECT_THAT(text([] { Mlp({4}); }), HasSubstr("Mlp: expected at least two widths, got 1"));
  EXPECT_THAT(text([] { Dropout(0.5)(Tensor()); }), HasSubstr("undefined"));
  EXPECT_THAT(text([] { Linear(3, 2)(Tensor::zeros({4, 5})); }), HasSubstr("does not fit"));
}

}  // namespace
}  // namespace pinion::nn
