// SPDX-License-Identifier: Apache-2.0
#include "pinion/nn/noise.h"

#include "pinion/kernels/check.h"
#include "pinion/nn/init.h"

namespace pinion {
namespace {

constexpr int kCallBits = 40;  // of the 64 of a step

thread_local uint64_t part_of_thread = 0;

}  // namespace

void set_noise_part(int part) {
  PINION_CHECK(part >= 0 && part < 1 << (64 - kCallBits),
               "set_noise_part: expected a part in [0, 2^24), got ", part);
  part_of_thread = static_cast<uint64_t>(part);
}

PhiloxKey noise_key(uint32_t stream, uint64_t call) {
  return {random_seed(), stream, (part_of_thread << kCallBits) + call};
}

}  // namespace pinion
