// SPDX-License-Identifier: Apache-2.0
// Conversion between any two element types, once for every device.
#pragma once

#include <type_traits>

#include "pinion/kernels/float_types.h"

namespace pinion::kernels {

// double to float, rounding to odd: a second rounding to 16 bits is then as if there was only one.
PINION_INLINE float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  const double back = nearest;
  const uint32_t u = bit_cast<uint32_t>(nearest);
  const bool inexact = back < x || back > x;
  const bool too_large = (x < 0 ? -back : back) > (x < 0 ? -x : x);
  const bool infinite = (u & 0x7fffffffu) == 0x7f800000u;
  return bit_cast<float>(inexact && !infinite ? (too_large ? u - 1 : u) | 1u : u);
}

// Between floating types round to even; to integers truncate and saturate, NaN giving 0; to bool
// tell zero from everything else; between integers keep the low bits.
template <class To, class From>
PINION_INLINE To convert(From x) {
  constexpr bool from_small_float = sizeof(From) == 2;
  constexpr bool from_real = std::is_floating_point_v<From>;
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (from_small_float) {
    return convert<To>(static_cast<float>(x));
  } else if constexpr (sizeof(To) == 2) {
    if constexpr (std::is_same_v<From, float>) return To(x);
    return To(round_to_odd(static_cast<double>(x)));
  } else if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (from_real && std::is_integral_v<To>) {
    constexpr To low = sizeof(To) == 1 ? To(0) : sizeof(To) == 4 ? To(INT32_MIN) : To(INT64_MIN);
    constexpr To high = sizeof(To) == 1 ? To(255) : sizeof(To) == 4 ? To(INT32_MAX) : To(INT64_MAX);
    constexpr From top = static_cast<From>(high);  // may round up to a power of two
    if (!(x > static_cast<From>(low))) return x == x ? low : To(0);
    return x >= top ? high : static_cast<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

}  // namespace pinion::kernels
