// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/tf32.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "pinion/kernels/check.h"

namespace pinion::kernels::cuda {
namespace {

struct Allowed {
  std::atomic<bool> matmul, conv;
};
Allowed& allowed() {
  static Allowed* const all = [] {
    const Tf32 wanted = tf32_of(std::getenv("PINION_ALLOW_TF32"));
    return new Allowed{wanted.matmul, wanted.conv};
  }();
  return *all;
}

}  // namespace

Tf32 tf32_of(const char* text) {
  const std::string_view value = text ? text : "";
  const bool both = value == "1" || value == "matmul,conv";
  PINION_REQUIRE(
      config, both || value.empty() || value == "0" || value == "matmul" || value == "conv",
      "PINION_ALLOW_TF32: expected 0, 1, matmul, conv or \"matmul,conv\", got \"", text, "\"");
  return {both || value == "matmul", both || value == "conv"};
}

Tf32 tf32() { return {allowed().matmul, allowed().conv}; }
void set_tf32(Tf32 wanted) {
  allowed().matmul = wanted.matmul;
  allowed().conv = wanted.conv;
}

}  // namespace pinion::kernels::cuda
