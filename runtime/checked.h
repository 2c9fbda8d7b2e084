// SPDX-License-Identifier: Apache-2.0
// Arithmetic on numbers that come from outside: each function says whether the result is exact.
#pragma once

namespace pinion {

template <class T>
[[nodiscard]] constexpr bool checked_add(T a, T b, T& sum) {
  return !__builtin_add_overflow(a, b, &sum);
}

template <class T>
[[nodiscard]] constexpr bool checked_mul(T a, T b, T& product) {
  return !__builtin_mul_overflow(a, b, &product);
}

// True when `value` means the same number in the type of `out`, which then holds it.
template <class To, class From>
[[nodiscard]] constexpr bool checked_cast(From value, To& out) {
  return !__builtin_add_overflow(value, From{0}, &out);
}

}  // namespace pinion
