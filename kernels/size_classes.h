// SPDX-License-Identifier: Apache-2.0
// The sizes that caches of memory hand out: multiples of 64 bytes up to 1 KiB, then eight steps per
// power of two, so that at most an eighth of a block is unused.
#pragma once

#include <bit>
#include <cstddef>

namespace pinion::kernels {

inline constexpr size_t kSizeUnit = 64;  // bytes
inline constexpr int kLinearSizeClasses = 16;
inline constexpr int kSizeClasses = kLinearSizeClasses + 8 * 36;  // up to 2^46 bytes

// kSizeClasses or more for what is beyond the largest class.
constexpr int size_class_of(size_t bytes) {
  if (bytes <= kLinearSizeClasses * kSizeUnit)
    return bytes == 0 ? 0 : static_cast<int>((bytes - 1) / kSizeUnit);
  const int log = std::bit_width(bytes - 1) - 1;  // 2^log < bytes <= 2^(log + 1)
  const auto step = static_cast<int>(((bytes - 1) >> (log - 3)) & 7);
  return kLinearSizeClasses + (log - 10) * 8 + step;
}
constexpr size_t bytes_of_size_class(int size_class) {
  if (size_class < kLinearSizeClasses) return static_cast<size_t>(size_class + 1) * kSizeUnit;
  const int log = 10 + (size_class - kLinearSizeClasses) / 8;
  const int step = (size_class - kLinearSizeClasses) % 8;
  return (size_t{8} + static_cast<size_t>(step) + 1) << (log - 3);
}
static_assert(bytes_of_size_class(size_class_of(1025)) == 1152);
static_assert(bytes_of_size_class(size_class_of(4096)) == 4096);

}  // namespace pinion::kernels
