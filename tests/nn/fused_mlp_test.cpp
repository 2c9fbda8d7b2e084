// SPDX-License-Identifier: Apache-2.0
// The fused MLP must equal the same model run layer by layer.
#include "pinion/nn/fused_mlp.h"

#include <gtest/gtest.h>

#include "fused_mlp_testing.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/init.h"
#include "pinion/runtime/autograd.h"

namespace pinion::nn {
namespace {

using testing::distance;
using testing::noise;

Tensor classes(int64_t n, int64_t count) {
  std::vector<int64_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i * 7919 % count);
  return Tensor::of(ids, {n});
}

struct Case {
  std::vector<int64_t> widths;
  int64_t rows;
  Activation activation;
  bool cross_entropy;
  Precision precision = Precision::no;
};

void PrintTo(const Case& c, std::ostream* out) {
  for (int64_t w : c.widths) *out << w << "-";
  *out << " rows " << c.rows << " act " << int(c.activation) << (c.cross_entropy ? " ce" : " mse")
       << " " << name_of(c.precision);
}

class FusedMlpCase : public ::testing::TestWithParam<Case> {
 protected:
  Tensor loss(const FusedMlp& model, const Tensor& x, bool fused, Precision precision) const {
    const Case& c = GetParam();
    const Autocast guard(precision);
    const int64_t out = c.widths.back();
    if (c.cross_entropy) {
      const Tensor target = classes(c.rows, out);
      return fused ? model.cross_entropy(x, target)
                   : nn::cross_entropy(static_cast<const Mlp&>(model)(x), target);
    }
    const Tensor target = noise({c.rows, out}, 5);
    return fused ? model.mse_loss(x, target)
                 : nn::mse_loss(static_cast<const Mlp&>(model)(x), target);
  }

  std::vector<Tensor> gradients(FusedMlp& model, bool fused) const {
    return gradients(model, fused, GetParam().precision);
  }
  std::vector<Tensor> gradients(FusedMlp& model, bool fused, Precision precision) const {
    Tensor x = noise({GetParam().rows, GetParam().widths[0]}, 3).requires_grad(true);
    for (Tensor& p : model.parameters()) p.set_grad({});
    const Tensor value = loss(model, x, fused, precision);
    backward(value);
    std::vector<Tensor> out{value.detach(), x.grad()};
    for (const Tensor& p : model.parameters()) out.push_back(p.grad().clone());
    return out;
  }
};

// In bf16 both round, at different places: the fused one must not be further from f32 than the
// layers.
TEST_P(FusedMlpCase, EqualsTheLayersOneByOne) {
  FusedMlp model(GetParam().widths, GetParam().activation);
  const auto fused = gradients(model, true), layered = gradients(model, false);
  const auto exact = gradients(model, false, Precision::no);
  ASSERT_EQ(fused.size(), layered.size());
  for (size_t i = 0; i < fused.size(); ++i) {
    if (GetParam().precision == Precision::no)
      EXPECT_LT(distance(fused[i], layered[i]), 4e-6) << "tensor " << i;  // sums of 4609 rows
    else
      EXPECT_LT(distance(fused[i], exact[i]), 1.1 * distance(layered[i], exact[i]) + 1e-3)
          << "tensor " << i;
  }
}

TEST_P(FusedMlpCase, BitsDoNotDependOnThreads) {
  FusedMlp model(GetParam().widths, GetParam().activation);
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 4, 8}) {
    const CpuContextGuard guard(threads);
    std::vector<std::vector<float>> bits;
    for (const Tensor& t : gradients(model, true)) bits.push_back(t.values<float>());
    if (first.empty()) first = bits;
    EXPECT_EQ(bits, first) << threads << " threads";
  }
}

TEST_P(FusedMlpCase, EveryRungAgrees) {
  FusedMlp model(GetParam().widths, GetParam().activation);
  std::vector<Tensor> first;
  for (int isa = 0; isa <= int(best_isa()); ++isa) {
    const CpuContextGuard guard(1, Isa(isa));
    const auto found = gradients(model, true);
    if (first.empty()) first = found;
    const double bound = GetParam().precision == Precision::no ? 2e-6 : 1.5e-2;
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_LT(distance(found[i], first[i]), bound) << name_of(Isa(isa)) << " tensor " << i;
  }
}

TEST_P(FusedMlpCase, ForwardEqualsTheLayers) {
  FusedMlp model(GetParam().widths, GetParam().activation);
  const Tensor x = noise({GetParam().rows, GetParam().widths[0]}, 3);
  const NoGrad no_grad;
  const Autocast guard(GetParam().precision);
  const Tensor a = cast(model(x), DType::f32);
  const Tensor b = cast(static_cast<const Mlp&>(model)(x), DType::f32);
  EXPECT_LT(distance(a, b), GetParam().precision == Precision::no ? 2e-6 : 1.5e-2);
}

INSTANTIATE_TEST_SUITE_P(
    All, FusedMlpCase,
    ::testing::Values(Case{{10, 32, 2}, 32, Activation::relu, true},
                      Case{{1, 1}, 1, Activation::relu, false},
                      Case{{3, 17, 5}, 7, Activation::gelu, true},
                      Case{{64, 64, 64, 64, 64, 16}, 9300, Activation::relu, false},
                      Case{{300, 128, 128, 10}, 4609, Activation::gelu_tanh, true},
                      Case{{20, 33, 40, 7}, 1000, Activation::relu, false, Precision::bf16},
                      Case{{20, 33, 40, 7}, 1000, Activation::gelu, true, Precision::bf16}));

TEST(FusedMlp, ScalesGradientsByTheLossGradient) {
  FusedMlp model({4, 8, 3});
  const Tensor x = noise({16, 4}, 1), target = classes(16, 3);
  backward(model.cross_entropy(x, target));
  const Tensor once = model.layers[0].weight.grad().clone();
  for (Tensor& p : model.parameters()) p.set_grad({});
  backward(model.cross_entropy(x, target) * 3.0);
  EXPECT_LT(distance(model.layers[0].weight.grad(), once * 3.0), 1e-6);
}

TEST(FusedMlp, RefusesWhatDoesNotFit) {
  EXPECT_THROW(FusedMlp({4}), Error);
  EXPECT_THROW(FusedMlp({4, 129, 2}), Error);
  EXPECT_THROW(FusedMlp({4, 8, 2}, Activation::none), Error);
  const FusedMlp model({4, 8, 3});
  EXPECT_THROW(model.cross_entropy(noise({5, 3}, 1), classes(5, 3)), Error);  // width of x
  EXPECT_THROW(model.cross_entropy(noise({5, 4}, 1), classes(6, 3)), Error);  // count of targets
  EXPECT_THROW(model.cross_entropy(noise({5, 4}, 1), classes(5, 4)), Error);  // id 3 of 3 classes
  EXPECT_THROW(model.mse_loss(noise({5, 4}, 1), noise({5, 4}, 2)), Error);    // shape of targets
  EXPECT_THROW(model.cross_entropy(noise({0, 4}, 1), classes(0, 3)), Error);  // no rows
  const Autocast guard(Precision::fp16);
  EXPECT_THROW(model.cross_entropy(noise({5, 4}, 1), classes(5, 3)), Error);
}

}  // namespace
}  // namespace pinion::nn
