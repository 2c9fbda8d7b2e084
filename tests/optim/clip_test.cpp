// SPDX-License-Identifier: Apache-2.0
// Clipping by norm and by value, on loose tensors and in an optimizer's arenas.
#include "pinion/optim/clip.h"

#include <gmock/gmock.h>

#include <cmath>
#include <memory>

#include "pinion/nn/ops.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::optim {
namespace {

using ::testing::ElementsAre;
using testing::error_text;
using testing::GoldenFile;
using ::testing::HasSubstr;
using Params = std::vector<nn::NamedTensor>;

Tensor parameter(Tensor value) {
  value.requires_grad(true);
  return value;
}

// ----------------------------------------------------------------------------------------

Params with_gradients(const std::vector<float>& a, const std::vector<float>& b) {
  Params out = {{"a", parameter(Tensor::zeros({static_cast<int64_t>(a.size())}))},
                {"b", parameter(Tensor::zeros({static_cast<int64_t>(b.size())}))}};
  out[0].tensor.set_grad(Tensor::of(a, out[0].tensor.shape()));
  out[1].tensor.set_grad(Tensor::of(b, out[1].tensor.shape()));
  return out;
}

std::vector<Tensor> handles(const Params& params) {
  std::vector<Tensor> out;
  for (const nn::NamedTensor& p : params) out.push_back(p.tensor);
  return out;
}

// The tensors and gradients that tools/make_golden_optim.py clipped.
Params golden_params(const GoldenFile& golden) {
  Params out;
  for (const std::string name : {"a", "b"}) {
    out.push_back({name, parameter(golden.load("start." + name))});
    const Tensor& t = out.back().tensor;
    out.back().tensor.set_grad(golden.load("grads." + name).rows(3, 4).alias(t.shape()).clone());
  }
  return out;
}

TEST(Clip, NormMatchesPyTorch) {
  const GoldenFile golden("optim");
  for (const auto& [key, limit] : {std::pair("clip.small", 0.5), std::pair("clip.large", 1e6)}) {
    const std::vector<double> expected = golden.values<double>(std::string(key) + ".grads");
    const double norm = golden.load(std::string(key) + ".norm").item();
    for (bool in_arena : {false, true}) {
      Params params = golden_params(golden);
      std::unique_ptr<Sgd> sgd;
      if (in_arena) {
        sgd = std::make_unique<Sgd>(params);
        EXPECT_NEAR(clip_grad_norm_(*sgd, limit), norm, 1e-13 * norm);
        sgd->apply_pending_scale();
      } else {
        EXPECT_NEAR(clip_grad_norm_(handles(params), limit), norm, 1e-13 * norm);
      }
      std::vector<double> got = params[0].tensor.grad().values<double>();
      const std::vector<double> b = params[1].tensor.grad().values<double>();
      got.insert(got.end(), b.begin(), b.end());
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-12) << key;
    }
  }
}

TEST(Clip, FactorOfAnOptimizerActsInTheStep) {
  Params params = with_gradients({3, 0}, {4});
  Sgd sgd(params, {.lr = 1});
  EXPECT_DOUBLE_EQ(clip_grad_norm_(sgd, 2.5), 5);
  EXPECT_EQ(params[0].tensor.grad().values<float>()[0], 3);  // as it was
  EXPECT_NEAR(clip_grad_norm_(sgd, 100), 2.5, 1e-5);         // of the clipped gradients
  sgd.step();
  EXPECT_NEAR(params[0].tensor.values<float>()[0], -1.5, 1e-5);
  EXPECT_NEAR(params[1].tensor.values<float>()[0], -2, 1e-5);
  sgd.zero_grad();
  EXPECT_EQ(sgd.pending_scale(), 1);
  EXPECT_EQ(clip_grad_norm_(sgd, 1), 0);
}

TEST(Clip, GradientsWrittenAfterClippingAreRefused) {
  Params params = with_gradients({3}, {4});
  Sgd sgd(params, {.lr = 1});
  clip_grad_norm_(sgd, 1);
  backward(nn::sum(params[0].tensor));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { sgd.step(); }), HasSubstr("zero_grad()"));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { clip_grad_norm_(sgd, 0.1); }),
              HasSubstr("zero_grad()"));
  sgd.zero_grad();
  backward(nn::sum(params[0].tensor));
  sgd.step();
  EXPECT_EQ(params[0].tensor.values<float>()[0], -1);
}

TEST(Clip, StatsFollowEveryChangeOfTheGradients) {
  Params params = with_gradients({3}, {4});
  Sgd sgd(params);
  EXPECT_EQ(sgd.grad_stats().squares, 25);
  params[1].tensor.set_grad({});
  EXPECT_EQ(sgd.grad_stats().squares, 9);
  params[0].tensor.set_grad(Tensor::full({1}, 2));
  EXPECT_EQ(sgd.grad_stats().squares, 4);
  backward(nn::sum(params[0].tensor));
  EXPECT_EQ(sgd.grad_stats().squares, 9);
  Tensor g = params[0].tensor.grad();
  g.mut().as<float>()[0] = INFINITY;
  EXPECT_EQ(sgd.grad_stats().nonfinite, 1);
}

TEST(Clip, NonFiniteGradientsAreLeftAloneOrRefused) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    Params params = with_gradients({1, bad}, {2});
    EXPECT_TRUE(std::isnan(clip_grad_norm_(handles(params), 1)));
    EXPECT_EQ(params[1].tensor.grad().values<float>()[0], 2);
    Sgd sgd(params);
    EXPECT_TRUE(std::isnan(clip_grad_norm_(sgd, 1)));
    EXPECT_EQ(sgd.pending_scale(), 1);
    EXPECT_THAT(
        error_text(ErrorKind::non_finite, [&] { clip_grad_norm_(sgd, 1, NonFinite::error); }),
        HasSubstr("got 1 infinite or NaN"));
    EXPECT_THAT(error_text(ErrorKind::non_finite,
                           [&] { clip_grad_norm_(handles(params), 1, NonFinite::error); }),
                HasSubstr("clip_grad_norm_"));
  }
}

TEST(Clip, ByValue) {
  Params params = with_gradients({3, -0.5}, {-4});
  clip_grad_value_(handles(params), 1);
  EXPECT_THAT(params[0].tensor.grad().values<float>(), ElementsAre(1.0f, -0.5f));
  EXPECT_THAT(params[1].tensor.grad().values<float>(), ElementsAre(-1.0f));
  Params more = with_gradients({3, -0.5}, {-4});
  Sgd sgd(more);
  sgd.multiply_gradients(0.5);
  clip_grad_value_(sgd, 1);
  EXPECT_THAT(more[0].tensor.grad().values<float>(), ElementsAre(1.0f, -0.25f));
  EXPECT_THAT(more[1].tensor.grad().values<float>(), ElementsAre(-1.0f));
}

TEST(Clip, NamesWhatIsWrong) {
  const auto text = [](auto f) { return error_text(ErrorKind::internal, f); };
  Sgd sgd(with_gradients({3}, {4}));
  EXPECT_THAT(text([&] { clip_grad_norm_(sgd, -1); }), HasSubstr("max_norm >= 0, got -1"));
  EXPECT_THAT(text([&] { clip_grad_value_(sgd, NAN); }), HasSubstr("limit"));
  EXPECT_THAT(text([&] { clip_grad_norm_({Tensor()}, 1); }), HasSubstr("undefined"));
}

}  // namespace
}  // namespace pinion::optim
