// SPDX-License-Identifier: Apache-2.0
// What the PINION_ variables do. They are read once in a process, so each case runs in one of its
// own: the test program started again.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "pinion/kernels/cpu/onednn.h"
#include "pinion/kernels/cpu/parallel.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/tensor.h"

namespace pinion {
namespace {

using testing::ExitedWithCode;

// Sets the variable, does f, and ends with its result, or with the code of what it throws.
template <class F>
[[noreturn]] void end_with(const char* name, const char* value, F&& f) {
  ::setenv(name, value, 1);
  try {
    std::exit(f());
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::exit(static_cast<int>(e.kind()));
  }
}
int threads() { return cpu_context().pool->threads(); }
int rung() { return 100 + static_cast<int>(cpu_context().isa); }
int log() { return 100 + static_cast<int>(log_level()); }
int onednn() { return kernels::onednn::available(Isa::amx, DType::f32) ? 101 : 100; }
int nan() { return 100 + std::isnan(Tensor({1}).item()); }

constexpr int kConfig = static_cast<int>(ErrorKind::config);

class EnvironmentDeathTest : public testing::Test {
 protected:
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};

TEST_F(EnvironmentDeathTest, NumThreadsSizesThePool) {
  EXPECT_EXIT(end_with("PINION_NUM_THREADS", "3", threads), ExitedWithCode(3), "");
  for (const char* wrong : {"0", "-1", "4097", "two", "2 ", "1e1"})
    EXPECT_EXIT(end_with("PINION_NUM_THREADS", wrong, threads), ExitedWithCode(kConfig),
                "PINION_NUM_THREADS: expected a number from 1 to 4096, got")
        << wrong;
}

TEST_F(EnvironmentDeathTest, CpuIsaPicksARung) {
  EXPECT_EXIT(end_with("PINION_CPU_ISA", "scalar", rung), ExitedWithCode(100), "");
  EXPECT_EXIT(end_with("PINION_CPU_ISA", "", rung),
              ExitedWithCode(100 + static_cast<int>(best_isa())), "");
  EXPECT_EXIT(end_with("PINION_CPU_ISA", "sse9", rung), ExitedWithCode(kConfig),
              "PINION_CPU_ISA: expected scalar, avx2, avx512 or amx, got \"sse9\"");
  if (best_isa() < Isa::amx) {
    EXPECT_EXIT(end_with("PINION_CPU_ISA", "amx", rung), ExitedWithCode(kConfig),
                "PINION_CPU_ISA: this CPU reaches [a-z0-9]+, got \"amx\"");
  }
}

TEST_F(EnvironmentDeathTest, LogSetsTheLevel) {
  EXPECT_EXIT(end_with("PINION_LOG", "error", log), ExitedWithCode(103), "^$");
  EXPECT_EXIT(end_with("PINION_LOG", "loud", log), ExitedWithCode(101),
              "PINION_LOG: expected debug, info, warn or error, got 'loud'; using info");
}

TEST_F(EnvironmentDeathTest, OnednnCanBeSwitchedOff) {
  EXPECT_EXIT(end_with("PINION_ONEDNN", "0", onednn), ExitedWithCode(100), "");
  EXPECT_EXIT(end_with("PINION_ONEDNN", "1", onednn), ExitedWithCode(onednn()), "");
}

TEST_F(EnvironmentDeathTest, PoisonFillsNewTensors) {
  EXPECT_EXIT(end_with("PINION_POISON", "1", nan), ExitedWithCode(101), "");
}

}  // namespace
}  // namespace pinion
