// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/tf32.h"

#include <atomic>

namespace pinion::kernels::cuda {
namespace {

std::atomic<bool> of_matmul{false}, of_conv{false};

}  // namespace

Tf32 tf32() { return {of_matmul, of_conv}; }
void set_tf32(Tf32 allowed) {
  of_matmul = allowed.matmul;
  of_conv = allowed.conv;
}

}  // namespace pinion::kernels::cuda
