// SPDX-License-Identifier: Apache-2.0
// Every row of op_cases.h on the CUDA device against the CPU: on a GPU where there is one, and in
// the program pinion_cudasim_tests on the simulator.
#include <gtest/gtest.h>

#include "pinion/tests/nn/op_harness.h"

namespace pinion::testing {
namespace {

constexpr Device kCuda{Device::Kind::cuda, 0};

void expect_cpu_numbers(const OpCase& c, DType dtype, double y_bound, double dx_bound) {
  Tensors x = make_leaves(c, dtype), moved;
  for (size_t i = 0; i < x.size(); ++i)
    moved.push_back(x[i].detach().to(kCuda).requires_grad(x[i].requires_grad()));
  const Result got = run_row(c, moved);
  EXPECT_EQ(got.y.device(), kCuda);
  expect_close(got, run_row(c, x), y_bound, dx_bound);
}

TEST(CudaOps, MatchCpu) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
  const struct {
    DType dtype;
    double y_bound, dx_bound;
  } types[] = {{DType::f32, 1e-5, 2e-5},
               {DType::f64, 1e-14, 1e-13},
               {DType::bf16, 1e-2, 2e-2},
               {DType::f16, 2e-3, 4e-3}};
  for (const OpCase& c : op_cases())
    for (const auto& [dtype, y_bound, dx_bound] : types) {
      if (c.large() && dtype != DType::f32) continue;
      SCOPED_TRACE(cat({c.name, " in ", dtype}));
      expect_cpu_numbers(c, dtype, y_bound, dx_bound);
    }
}

TEST(CudaOps, ReleaseTheirMemory) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
  const int64_t before = memory_stats(kCuda).live;
  {
    const Tensor x = Tensor::of(std::vector<float>{1, 2, 3}, {3}).to(kCuda);
    EXPECT_GT(memory_stats(kCuda).live, before);
    EXPECT_EQ((x + x).to(Device{}).values<float>(), (std::vector<float>{2, 4, 6}));
  }
  EXPECT_EQ(memory_stats(kCuda).live, before);
}

}  // namespace
}  // namespace pinion::testing
