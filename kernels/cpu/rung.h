// SPDX-License-Identifier: Apache-2.0
// Every file of kernels/cpu that defines kernels is compiled once per rung of the ISA ladder, with
// other instruction flags and PINION_RUNG naming its namespace. Loops are plain C++ that the
// compiler vectorises; where lanes must be explicit (reductions, GEMM) they are GCC vector types of
// the rung's width, so one source serves every rung.
//
// A function that is not inlined and not in the rung's namespace would be emitted from a file with,
// say, AVX-512 flags and might be the copy the linker keeps for every CPU. So rung files use
// nothing of the standard library but <cmath> builtins, and shared headers mark their functions
// PINION_INLINE; the test rung_symbols holds this.
#pragma once

#include "pinion/kernels/cpu/parallel.h"
#include "pinion/kernels/kernels.h"

#ifndef PINION_RUNG
#define PINION_RUNG rung_scalar  // for tools that read one file alone
#define PINION_VECTOR_BYTES 16
#endif

namespace pinion::kernels::PINION_RUNG {

// A register of T's. Arithmetic and comparisons are element by element.
template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(PINION_VECTOR_BYTES)));
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
inline constexpr int64_t kLanes = PINION_VECTOR_BYTES / static_cast<int64_t>(sizeof(T));

template <class T>
PINION_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
PINION_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
PINION_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}
// Lane l is lane from[l] of a followed by b. The lanes must be constants after inlining.
template <class V, class I>
PINION_INLINE V shuffle(V a, V b, I from) {
#ifdef __clang__
  constexpr int64_t L = sizeof(V) / sizeof a[0];
  V y = {};
  for (int64_t l = 0; l < L; ++l) y[l] = from[l] < L ? a[from[l]] : b[from[l] - L];
  return y;
#else
  return __builtin_shuffle(a, b, from);
#endif
}
// A square of as many registers as they have lanes: v[i] lane l becomes v[l] lane i, by swapping
// ever smaller blocks off the diagonal.
template <class T>
PINION_INLINE void transpose_lanes(Vec<T> (&v)[kLanes<T>]) {
  constexpr int64_t L = kLanes<T>;
#pragma GCC unroll 5
  for (int64_t half = L / 2; half > 0; half /= 2) {
    decltype(v[0] < v[0]) left = {}, right = {};
    for (int64_t l = 0; l < L; ++l) {
      left[l] = l & half ? L + l - half : l;
      right[l] = l & half ? L + l : l + half;
    }
#pragma GCC unroll 32
    for (int64_t i = 0; i < L; ++i) {
      if (i & half) continue;
      const Vec<T> a = v[i], b = v[i + half];
      v[i] = shuffle(a, b, left);
      v[i + half] = shuffle(a, b, right);
    }
  }
}
// The upper half of the lowest 2 `width` lanes, moved down to the lowest.
template <class T>
PINION_INLINE Vec<T> upper_half(Vec<T> v, int64_t width) {
  decltype(v < v) from = {};
  for (int64_t i = 0; i < kLanes<T>; ++i) from[i] = i < width ? i + width : i;
  return shuffle(v, v, from);
}
// The sum of the lanes by halves: the order is fixed by the rung.
template <class T>
PINION_INLINE T lane_sum(Vec<T> v) {
#pragma GCC unroll 4
  for (int64_t width = kLanes<T> / 2; width > 0; width /= 2) v += upper_half<T>(v, width);
  return v[0];
}
template <class T>
PINION_INLINE T lane_max(Vec<T> v) {
#pragma GCC unroll 4
  for (int64_t width = kLanes<T> / 2; width > 0; width /= 2) {
    const Vec<T> other = upper_half<T>(v, width);
    v = v > other ? v : other;
  }
  return v[0];
}

}  // namespace pinion::kernels::PINION_RUNG
