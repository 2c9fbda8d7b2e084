// SPDX-License-Identifier: Apache-2.0
// Every distinct convolution of ResNet-101 has a plan of cuDNN for an H100, which is described in
// text: no device is needed, only the library.
#include <gtest/gtest.h>

#ifdef PINION_WITH_CUDNN
#include <fstream>
#include <iterator>
#include <string>

#include "pinion/kernels/cuda/conv_plan.h"
#include "pinion/kernels/cuda/cudnn.h"
#include "pinion/tests/support/paths.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

namespace pinion::kernels::cuda {
namespace {

// He et al. 2016, table 1, with strides in the 3x3 convolutions, on images of 224 x 224: extent of
// the input, channels in and out, extent of the filter, stride.
struct Layer {
  int64_t extent, in, out, filter, stride;
};
constexpr Layer kResNet101[] = {
    {224, 3, 64, 7, 2},     {56, 64, 64, 1, 1},    {56, 64, 64, 3, 1},    {56, 64, 256, 1, 1},
    {56, 256, 64, 1, 1},    {56, 256, 128, 1, 1},  {56, 128, 128, 3, 2},  {28, 128, 512, 1, 1},
    {56, 256, 512, 1, 2},   {28, 512, 128, 1, 1},  {28, 128, 128, 3, 1},  {28, 512, 256, 1, 1},
    {28, 256, 256, 3, 2},   {14, 256, 1024, 1, 1}, {28, 512, 1024, 1, 2}, {14, 1024, 256, 1, 1},
    {14, 256, 256, 3, 1},   {14, 1024, 512, 1, 1}, {14, 512, 512, 3, 2},  {7, 512, 2048, 1, 1},
    {14, 1024, 2048, 1, 2}, {7, 2048, 512, 1, 1},  {7, 512, 512, 3, 1}};
constexpr int64_t kImages = 2 * 16;

ConvProblem problem_of(const Layer& l, ConvPass pass, DType dtype, bool tf32) {
  const Conv2d conv{l.stride, (l.filter - 1) / 2, 1};
  const int64_t out = (l.extent + 2 * conv.padding - l.filter) / conv.stride + 1;
  return {pass,     dtype,    kImages, l.extent, l.extent, l.in, l.out,
          l.filter, l.filter, out,     out,      conv,     tf32};
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// The most workspace that a convolution of ResNet-101 may take: what fits beside a training step.
constexpr int64_t kMostWorkspace = int64_t{256} << 20;

void expect_plans(const DevicelessPlanner& planner, DType dtype, bool tf32) {
  for (const auto pass : {ConvPass::forward, ConvPass::backward_input, ConvPass::backward_weight})
    for (const Layer& l : kResNet101) {
      const int64_t bytes = planner.workspace_bytes(problem_of(l, pass, dtype, tf32));
      EXPECT_GE(bytes, 0) << "no plan for " << name_of(dtype) << (tf32 ? " as TF32" : "")
                          << ", pass " << static_cast<int>(pass) << ", " << l.in << " -> " << l.out
                          << " at " << l.extent << ", filter " << l.filter << ", stride "
                          << l.stride;
      EXPECT_LE(bytes, kMostWorkspace);
    }
}

TEST(CudaConvPlans, ResNet101OnAnH100) {
#if defined(__SANITIZE_ADDRESS__)
  const __lsan::ScopedDisabler unseen;  // what the library never frees is not ours
#endif
  try {
    const Library there(kCudnn);
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  const Cudnn library = Cudnn::open(kCudnn);
  const DevicelessPlanner planner(library, text_of(in_source("tests/golden/h100_device.json")));
  expect_plans(planner, DType::bf16, false);
  expect_plans(planner, DType::f16, false);
  expect_plans(planner, DType::f32, true);
  expect_plans(planner, DType::f32, false);

  // What no engine can do is no error, and what is no convolution is one.
  ConvProblem odd = problem_of(kResNet101[2], ConvPass::forward, DType::bf16, false);
  odd.boundary[0] = 2;
  EXPECT_NO_THROW(planner.workspace_bytes(odd));
  odd.ho += 1;
  EXPECT_THROW(planner.workspace_bytes(odd), Error);
  EXPECT_THROW(DevicelessPlanner(library, "{}"), Error);
}

}  // namespace
}  // namespace pinion::kernels::cuda

#else

TEST(CudaConvPlans, ResNet101OnAnH100) { GTEST_SKIP() << "a build without cuDNN's header"; }

#endif
