// SPDX-License-Identifier: Apache-2.0
// Reductions over contiguous elements, with enough registers in flight to hide the latency of an
// addition. Their order is fixed by the length and the rung, so they give the same bits every time.
#pragma once

#include "pinion/kernels/cpu/packet.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

inline constexpr double kInfinity = __builtin_inf();

using math::larger;
using math::smaller;

// f(i) for every full packet that starts at i in [0, n), then part(i, count) for what is left.
template <int kUnroll, class T, class Full, class Part>
PINION_INLINE void for_packets(int64_t n, Full full, Part part) {
  constexpr int64_t L = kPacket<T>;
  int64_t i = 0;
  for (; i + kUnroll * L <= n; i += kUnroll * L)
#pragma GCC unroll 16
    for (int u = 0; u < kUnroll; ++u) full(i + u * L, u);
  for (; i + L <= n; i += L) full(i, 0);
  if (i < n) part(i, n - i);
}

// Copies `count` words; few of them without a call.
template <class Word>
PINION_INLINE void copy_words(const Word* from, int64_t count, Word* to, bool stream = false) {
  constexpr int64_t kFew = 128 / static_cast<int64_t>(sizeof(Word));
  constexpr int64_t kVector = PINION_VECTOR_BYTES / static_cast<int64_t>(sizeof(Word));
  if (count <= kFew) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  } else if (stream && count % kVector == 0) {
    const auto* source = reinterpret_cast<const char*>(from);
    auto* target = reinterpret_cast<char*>(to);
    for (int64_t at = 0; at < count / kVector * PINION_VECTOR_BYTES; at += PINION_VECTOR_BYTES) {
      Vec<float> v;
      __builtin_memcpy(&v, source + at, sizeof v);
      stream_packet(reinterpret_cast<float*>(target + at), v);
    }
  } else {
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(Word));
  }
}

template <int kUnroll, class V>
PINION_INLINE V sum_of(V (&acc)[kUnroll]) {
#pragma GCC unroll 4
  for (int width = kUnroll / 2; width > 0; width /= 2)
#pragma GCC unroll 8
    for (int u = 0; u < width; ++u) acc[u] += acc[u + width];
  return acc[0];
}

template <class T>
PINION_INLINE Accumulator<T> row_sum(const T* x, int64_t n) {
  Packet<T> acc[8] = {};
  for_packets<8, T>(
      n, [&](int64_t i, int u) __attribute__((always_inline)) { acc[u] += load_packet(x + i); },
      [&](int64_t i, int64_t count)
          __attribute__((always_inline)) { acc[1] += load_part(x + i, count); });
  return lane_sum<Accumulator<T>>(sum_of(acc));
}

// The largest element; NaN counts as absent. -infinity when n is 0.
template <class T>
PINION_INLINE Accumulator<T> row_max(const T* x, int64_t n) {
  using A = Accumulator<T>;
  constexpr A low = static_cast<A>(-kInfinity);
  Packet<T> acc[4] = {splat(low), splat(low), splat(low), splat(low)};
  for_packets<4, T>(
      n,
      [&](int64_t i, int u)
          __attribute__((always_inline)) { acc[u] = larger(load_packet(x + i), acc[u]); },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        acc[1] = larger(load_part(x + i, count, low), acc[1]);
      });
  return lane_max<A>(larger(larger(acc[0], acc[1]), larger(acc[2], acc[3])));
}

}  // namespace
}  // namespace pinion::kernels::PINION_RUNG
