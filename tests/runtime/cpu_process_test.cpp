// SPDX-License-Identifier: Apache-2.0
// A process that computes on the CPU opens none of NVIDIA's libraries, also in a build with CUDA.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/tensor.h"

namespace pinion {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(CpuProcess, OpensNoLibraryOfNvidias) {
  Tensor a({128, 96}), b({96, 80});
  on(a.device(), [&](auto& ctx) {
    kernels::fill(ctx, a.mut(), 1);
    kernels::fill(ctx, b.mut(), 2);
  });
  a.requires_grad(true);
  const Tensor y = nn::sum(nn::matmul(a, b));
  backward(y);
  EXPECT_EQ(y.item(), 128 * 80 * 96 * 2);
  std::ifstream file("/proc/self/maps");
  const std::string maps(std::istreambuf_iterator<char>(file), {});
  ASSERT_THAT(maps, HasSubstr("libc.so"));  // else this looks for nothing
  for (const char* library : {"libcublas", "libcudnn", "libnccl", "libcudart", "libcuda.so"})
    EXPECT_THAT(maps, Not(HasSubstr(library)));
}

}  // namespace
}  // namespace pinion
