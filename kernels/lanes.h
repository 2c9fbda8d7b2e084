// SPDX-License-Identifier: Apache-2.0
// One spelling for a number and for a GCC vector of numbers: V is float or double anywhere and, on
// the CPU, also a vector of either with one lane per element.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "pinion/kernels/float_types.h"

#if defined(__SSE2__) && !defined(__CUDACC__)
#define PINION_X86_LANES
#include <immintrin.h>  // minimum, maximum and square root, which have no operator in GCC 12
#endif

namespace pinion::kernels {

// What the lanes of V are: their number type, and integers of the same layout.
template <class V>
struct LaneTraits {
  using Number = V;
  using Int = std::conditional_t<sizeof(V) == 4, int32_t, int64_t>;
  static constexpr int kCount = 1;
};
#ifndef __CUDACC__
template <class V>
requires requires(V v) { v[0]; }
struct LaneTraits<V> {
  using Number = std::remove_cvref_t<decltype(V{}[0])>;
  using Int = decltype(V{} < V{});
  static constexpr int kCount = static_cast<int>(sizeof(V) / sizeof(Number));
};
#endif
template <class V>
using Number = typename LaneTraits<V>::Number;
template <class V>
using Int = typename LaneTraits<V>::Int;

namespace math {

// mask ? a : b, lane by lane.
template <class V, class Mask>
PINION_INLINE V select(Mask mask, V a, V b) {
  return mask ? a : b;
}
template <class V>
PINION_INLINE V constant(double value) {
  return static_cast<Number<V>>(value) - V{};
}

// a < b ? a : b and a > b ? a : b, so b where either is NaN: what x86 has one instruction for.
template <class V>
PINION_INLINE V smaller(V a, V b) {
#ifdef PINION_X86_LANES
  if constexpr (LaneTraits<V>::kCount == 4 && sizeof(V) == 16)
    return (V)_mm_min_ps((__m128)a, (__m128)b);
#ifdef __AVX__
  if constexpr (LaneTraits<V>::kCount == 8 && sizeof(V) == 32)
    return (V)_mm256_min_ps((__m256)a, (__m256)b);
#endif
#ifdef __AVX512F__
  if constexpr (LaneTraits<V>::kCount == 16)
    return (V)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#endif
#endif
  return a < b ? a : b;
}
template <class V>
PINION_INLINE V larger(V a, V b) {
#ifdef PINION_X86_LANES
  if constexpr (LaneTraits<V>::kCount == 4 && sizeof(V) == 16)
    return (V)_mm_max_ps((__m128)a, (__m128)b);
#ifdef __AVX__
  if constexpr (LaneTraits<V>::kCount == 8 && sizeof(V) == 32)
    return (V)_mm256_max_ps((__m256)a, (__m256)b);
#endif
#ifdef __AVX512F__
  if constexpr (LaneTraits<V>::kCount == 16)
    return (V)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#endif
#endif
  return a > b ? a : b;
}
// Limits that let NaN pass.
template <class V>
PINION_INLINE V at_most(V x, double high) {
  return smaller(constant<V>(high), x);
}
template <class V>
PINION_INLINE V at_least(V x, double low) {
  return larger(constant<V>(low), x);
}

template <class V>
PINION_INLINE V sqrt(V x) {
  if constexpr (LaneTraits<V>::kCount == 1) {
    if constexpr (std::is_same_v<V, float>) return ::sqrtf(x);
    return ::sqrt(x);
  } else {
#ifdef PINION_X86_LANES
    if constexpr (LaneTraits<V>::kCount == 4 && sizeof(V) == 16) return (V)_mm_sqrt_ps((__m128)x);
#ifdef __AVX__
    if constexpr (LaneTraits<V>::kCount == 8 && sizeof(V) == 32)
      return (V)_mm256_sqrt_ps((__m256)x);
#endif
#ifdef __AVX512F__
    if constexpr (LaneTraits<V>::kCount == 16) return (V)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#endif
#endif
    V y = {};
    for (int i = 0; i < LaneTraits<V>::kCount; ++i) y[i] = sqrt(x[i]);
    return y;
  }
}

}  // namespace math
}  // namespace pinion::kernels
