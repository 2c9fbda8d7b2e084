// SPDX-License-Identifier: Apache-2.0
// Initialisation: bounds, moments and distribution of each rule, and which seeds give equal
// numbers.
#include "pinion/nn/init.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <thread>

#include "pinion/nn/layers.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::nn {
namespace {

using testing::error_text;
using ::testing::HasSubstr;

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// The Kolmogorov-Smirnov distance between a sample and a distribution function.
double distance(std::vector<float> sample, const std::function<double(double)>& cdf) {
  std::sort(sample.begin(), sample.end());
  const double n = static_cast<double>(sample.size());
  double worst = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double at = cdf(sample[i]);
    worst = std::max({worst, std::fabs(at - static_cast<double>(i) / n),
                      std::fabs(at - static_cast<double>(i + 1) / n)});
  }
  return worst;
}

// A sample of 300 x 100 fails this with probability 1e-6 when it is of the distribution.
constexpr double kMaxDistance = 2.7 / 173.2;  // K(2.7) = 1 - 9e-7, over sqrt(n)

struct Rule {
  const char* name;
  std::function<void(Tensor&)> fill;
  std::function<double(double)> cdf;
};

std::function<double(double)> uniform_cdf(double bound) {
  return [=](double x) { return std::clamp((x + bound) / (2 * bound), 0.0, 1.0); };
}
std::function<double(double)> normal_cdf(double mean, double std) {
  return [=](double x) { return normal_cdf((x - mean) / std); };
}

TEST(Init, EveryRuleDrawsFromItsDistribution) {
  manual_seed(11);
  const double kGain = std::sqrt(2.0 / (1 + 0.01));  // leaky_relu of slope 0.1
  const auto truncated = [](double x) {
    const double lo = normal_cdf(-0.5), hi = normal_cdf(2.0);  // mean 1, std 2, cut at 0 and 5
    return (normal_cdf(std::clamp((x - 1) / 2, -0.5, 2.0)) - lo) / (hi - lo);
  };
  const Rule rules[] = {
      {"uniform", [](Tensor& t) { init::uniform(t, -0.25, 0.25); }, uniform_cdf(0.25)},
      {"normal", [](Tensor& t) { init::normal(t, 3, 0.5); }, normal_cdf(3, 0.5)},
      {"trunc_normal", [](Tensor& t) { init::trunc_normal(t, 1, 2, 0, 5); }, truncated},
      {"xavier_uniform", [](Tensor& t) { init::xavier_uniform(t, 2); },
       uniform_cdf(2 * std::sqrt(6.0 / 400))},
      {"xavier_normal", [](Tensor& t) { init::xavier_normal(t); },
       normal_cdf(0, std::sqrt(2.0 / 400))},
      {"kaiming_uniform", [](Tensor& t) { init::kaiming_uniform(t, 0.1); },
       uniform_cdf(kGain * std::sqrt(3.0 / 100))},
      {"kaiming_uniform, fan out",
       [](Tensor& t) { init::kaiming_uniform(t, 0, init::FanMode::out, init::Nonlinearity::relu); },
       uniform_cdf(std::sqrt(2.0) * std::sqrt(3.0 / 300))},
      {"kaiming_normal", [](Tensor& t) { init::kaiming_normal(t, 0.1); },
       normal_cdf(0, kGain / 10)},
  };
  for (const Rule& rule : rules) {
    Tensor t({300, 100});
    rule.fill(t);
    EXPECT_LT(distance(t.values<float>(), rule.cdf), kMaxDistance) << rule.name;
  }
}

TEST(Init, TruncatedNormalKeepsItsBounds) {
  manual_seed(3);
  Tensor t({20000});
  init::trunc_normal(t, 0, 1, 3, 4);  // far in the tail
  const std::vector<float> v = t.values<float>();
  EXPECT_GE(*std::min_element(v.begin(), v.end()), 3);
  EXPECT_LE(*std::max_element(v.begin(), v.end()), 4);
  const double mean = std::accumulate(v.begin(), v.end(), 0.0) / 20000;
  EXPECT_NEAR(mean, 3.2624, 0.01);  // (phi(3) - phi(4)) / (Phi(4) - Phi(3)), std 0.22 / sqrt(n)
}

TEST(Init, FansAndGains) {
  EXPECT_EQ(init::fans_of({8, 3}).in, 3);
  EXPECT_EQ(init::fans_of({8, 3}).out, 8);
  EXPECT_EQ(init::fans_of({8, 3, 5, 2}).in, 30);
  EXPECT_EQ(init::fans_of({8, 3, 5, 2}).out, 80);
  EXPECT_DOUBLE_EQ(init::gain_of(init::Nonlinearity::linear), 1);
  EXPECT_DOUBLE_EQ(init::gain_of(init::Nonlinearity::tanh), 5.0 / 3);
  EXPECT_DOUBLE_EQ(init::gain_of(init::Nonlinearity::relu), std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(init::gain_of(init::Nonlinearity::leaky_relu, 0.5), std::sqrt(1.6));
}

TEST(Init, LayersFollowPyTorchsRules) {
  manual_seed(5);
  Linear linear(64, 512);
  EXPECT_LT(distance(linear.weight.values<float>(), uniform_cdf(1.0 / 8)), kMaxDistance);
  EXPECT_LT(distance(linear.bias.values<float>(), uniform_cdf(1.0 / 8)), 2.7 / std::sqrt(512.0));
  Embedding table(300, 100, 7);
  const std::vector<float> v = table.weight.values<float>();
  EXPECT_EQ(std::vector<float>(v.begin() + 700, v.begin() + 800), std::vector<float>(100, 0.0f));
  std::vector<float> rest = v;
  rest.erase(rest.begin() + 700, rest.begin() + 800);
  EXPECT_LT(distance(rest, normal_cdf(0, 1)), kMaxDistance);
  LayerNorm norm(4);
  EXPECT_EQ(norm.weight.values<float>(), std::vector<float>(4, 1.0f));
  EXPECT_EQ(norm.bias.values<float>(), std::vector<float>(4, 0.0f));
}

std::vector<float> first_weights() {
  Linear a(3, 4), b(3, 4);
  std::vector<float> out = a.weight.values<float>(), more = b.weight.values<float>();
  EXPECT_NE(out, more);  // each construction has streams of its own
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

TEST(Init, SeedsAndOrderOfConstructionDecide) {
  manual_seed(42);
  const std::vector<float> reference = first_weights();
  EXPECT_NE(first_weights(), reference);
  manual_seed(42);
  Dropout noise(0.5);  // takes no stream from the weights
  EXPECT_EQ(first_weights(), reference);
  manual_seed(43);
  EXPECT_NE(first_weights(), reference);
  manual_seed(42);
  std::vector<float> elsewhere;
  std::thread([&] { elsewhere = first_weights(); }).join();
  EXPECT_EQ(elsewhere, reference);  // a thread counts for itself
  EXPECT_EQ(first_weights(), reference);
}

TEST(Init, StreamsOfDifferentUsesDiffer) {
  manual_seed(0);
  EXPECT_EQ(next_stream(StreamUse::init), 0u);
  EXPECT_EQ(next_stream(StreamUse::init), 1u);
  EXPECT_EQ(next_stream(StreamUse::noise), 1u << 28);
  EXPECT_EQ(next_stream(StreamUse::data), 2u << 28);
}

TEST(Init, NarrowTypesAreRoundedDraws) {
  manual_seed(9);
  Tensor wide({64}), narrow({64}, DType::bf16);
  init::normal(wide);
  manual_seed(9);
  init::normal(narrow);
  const std::vector<float> w = wide.values<float>();
  const std::vector<BFloat16> n = narrow.values<BFloat16>();
  for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(float(n[i]), float(BFloat16(w[i])));
}

TEST(Init, NamesWhatIsWrong) {
  Tensor t({2, 3}), ids({2}, DType::i64), undefined, vector({3});
  const auto text = [](auto f) { return error_text(ErrorKind::internal, f); };
  EXPECT_THAT(text([&] { init::uniform(t, 1, 0); }), HasSubstr("low <= high"));
  EXPECT_THAT(text([&] { init::uniform(t, 0, NAN); }), HasSubstr("uniform: "));
  EXPECT_THAT(text([&] { init::normal(t, 0, -1); }), HasSubstr("std >= 0"));
  EXPECT_THAT(text([&] { init::normal(ids); }), HasSubstr("normal: expected a floating tensor"));
  EXPECT_THAT(text([&] { init::zeros(undefined); }), HasSubstr("undefined"));
  EXPECT_THAT(text([&] { init::trunc_normal(t, 0, 0); }), HasSubstr("std > 0"));
  EXPECT_THAT(text([&] { init::trunc_normal(t, 0, 1, 2, 2); }), HasSubstr("low < high"));
  EXPECT_THAT(text([&] { init::kaiming_normal(vector); }), HasSubstr("at least two dimensions"));
  EXPECT_THAT(text([&] { init::xavier_normal(t, INFINITY); }), HasSubstr("finite gain"));
}

}  // namespace
}  // namespace pinion::nn
