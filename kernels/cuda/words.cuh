// SPDX-License-Identifier: Apache-2.0
// Words for kernels that move memory and do not compute.
#pragma once

#include <initializer_list>

#include "pinion/kernels/cuda/launch.h"

namespace pinion::kernels::cuda {

// Calls f.template operator()<Word>() with the widest word, of 1 to 16 bytes, that divides all
// addresses and all sizes in bytes.
template <class F>
void for_widest_word(std::initializer_list<const void*> addresses,
                     std::initializer_list<int64_t> sizes, F f) {
  uint64_t together = 16;
  for (const void* p : addresses) together |= reinterpret_cast<uintptr_t>(p);
  for (const int64_t bytes : sizes) together |= static_cast<uint64_t>(bytes);
  if (together % 16 == 0) return f.template operator()<Pack<uint64_t, 2>>();
  if (together % 8 == 0) return f.template operator()<uint64_t>();
  if (together % 4 == 0) return f.template operator()<uint32_t>();
  if (together % 2 == 0) return f.template operator()<uint16_t>();
  f.template operator()<uint8_t>();
}

}  // namespace pinion::kernels::cuda
