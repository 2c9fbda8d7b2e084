// SPDX-License-Identifier: Apache-2.0
// The residual connection in front of a layer norm, on the CPU; on a CUDA device:
// cuda_residual_norm_test.
#include "pinion/nn/amp.h"
#include "residual_norm_testing.h"

namespace pinion::testing {
namespace {

Tensor ones(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::full(shape, 1, dtype).requires_grad(true);
}

TEST(ResidualNorm, OneKernelIsThree) { expect_one_kernel_is_three({}); }

TEST(ResidualNorm, EitherResultAloneHasItsGradient) {
  for (const bool of_sum : {false, true}) {
    const Tensor x = ones({2, 4}), branch = ones({2, 4}), gamma = ones({4}), beta = ones({4});
    const auto r = nn::residual_layer_norm(x, branch, gamma, beta, 0.5, {1, 2, 3});
    backward(nn::sum((of_sum ? r.sum : r.normalised) * 3));
    EXPECT_EQ(gamma.grad().defined(), !of_sum);
    const auto dx = x.grad().values<float>(), dbranch = branch.grad().values<float>();
    const auto sum = r.sum.values<float>();
    for (size_t i = 0; i < dx.size(); ++i) {
      EXPECT_TRUE(!of_sum || dx[i] == 3);
      EXPECT_EQ(dbranch[i], sum[i] == 1 ? 0 : 2 * dx[i]) << "element " << i;  // 1 + 0 or 1 + 2
    }
  }
}

TEST(ResidualNorm, ABranchThatAsksForNoGradientGetsNone) {
  const Tensor x = ones({2, 4}), branch = Tensor::full({2, 4}, 3);
  const auto r = nn::residual_layer_norm(x, branch, ones({4}), ones({4}), 0.5, {1, 2, 3});
  backward(nn::sum(r.sum * r.normalised));
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(branch.grad().defined());
  const NoGrad no_grad;
  EXPECT_FALSE(nn::residual_layer_norm(x, branch, ones({4}), ones({4})).sum.requires_grad());
}

TEST(ResidualNorm, RunsInF32UnderAutocast) {
  const nn::Autocast guard(nn::Precision::bf16);
  const Tensor x = ones({2, 4}), branch = ones({2, 4}, DType::bf16);
  const auto r = nn::residual_layer_norm(x, branch, ones({4}), ones({4}));
  EXPECT_EQ(r.sum.dtype(), DType::f32);
  EXPECT_EQ(r.normalised.dtype(), DType::f32);
  backward(nn::sum(r.sum));
  EXPECT_EQ(branch.grad().dtype(), DType::bf16);
}

TEST(ResidualNorm, TakingGradientsIsForClosures) { EXPECT_THROW(take_gradient_so_far(0), Error); }

}  // namespace
}  // namespace pinion::testing
