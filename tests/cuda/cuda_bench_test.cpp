// SPDX-License-Identifier: Apache-2.0
// What is timed on a GPU also runs: every case of bench/gpu in miniature, on a GPU or the
// simulator, which sees what a benchmark that nobody checks would do to memory.
#include "pinion/bench/gpu/cases.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

TEST_F(CudaKernels, EveryCaseOfTheBenchmarkRuns) {
  for (const bench::GpuCase& c : bench::gpu_cases(128)) {
    SCOPED_TRACE(c.id);
    const std::function<void()> first = c.make(), second = c.make();
    for (int turn = 0; turn < 2; ++turn) first(), second();
    Tensor::full({1}, 1, DType::f32, kCuda).to(kCpu);  // waits for the device
  }
}

TEST_F(CudaKernels, CasesOfTheBenchmarkHaveNamesAndFloors) {
  std::vector<std::string> ids;
  for (const bench::GpuCase& c : bench::gpu_cases()) {
    ids.push_back(c.id);
    const std::string what = c.id.substr(0, c.id.find('/'));
    EXPECT_EQ(c.id, what + "/" + c.dtype() + "/" + c.shape());
    EXPECT_TRUE(c.bytes > 0 || c.flops > 0 || c.cold == 0) << c.id;
    EXPECT_LE(c.bytes * 1e-12, 0.01) << c.id << ": more than 10 GB for one run";
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

}  // namespace
}  // namespace pinion::testing
