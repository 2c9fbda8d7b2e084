// SPDX-License-Identifier: Apache-2.0
// The residual connection in front of a layer norm on a CUDA device, a GPU or the simulator: one
// kernel each way, and the numbers of the separate ones.
#include "pinion/kernels/cuda/backend.h"
#include "pinion/tests/nn/residual_norm_testing.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

TEST_F(CudaKernels, ResidualNormIsThreeKernels) { expect_one_kernel_is_three(kCuda); }

TEST_F(CudaKernels, ResidualNormLaunchesOnce) {
  const Tensor x = Tensor::full({4, 8}, 1, DType::f32, kCuda).requires_grad(true);
  const Tensor branch = x.detach().clone().requires_grad(true);
  const Tensor gamma = Tensor::full({8}, 1, DType::f32, kCuda), dy = x.detach().clone();
  const auto launches = [] { return cuda_backend::activity(0).launches; };
  int64_t before = launches();
  const auto r = nn::residual_layer_norm(x, branch, gamma, gamma, 0.1, {1, 2, 3});
  EXPECT_EQ(launches() - before, 1);
  const Tensor y = r.sum * r.normalised;
  before = launches();
  backward(y, dy);
  // Two for the product, one for the rows, one that adds up sums of blocks; none adds or draws.
  EXPECT_EQ(launches() - before, 2 + 1 + 1);
}

}  // namespace
}  // namespace pinion::testing
