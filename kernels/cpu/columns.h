// SPDX-License-Identifier: Apache-2.0
// Sums over rows: one result per column, the rows in order, columns held in registers.
#pragma once

#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// Sums of kVectors packets of adjacent columns over n rows, `stride` elements apart.
template <int kVectors, class T, class Out>
PINION_INLINE void sum_column_packets(const T* x, int64_t n, int64_t stride, Accumulator<T> factor,
                                      Out* y) {
  constexpr int64_t L = kPacket<T>;
  constexpr int kRows = kVectors >= 8 ? 1 : 4;  // rows at once, to fill the registers
  Packet<T> acc[kRows][kVectors] = {};
  int64_t r = 0;
  for (; r + kRows <= n; r += kRows)
#pragma GCC unroll 4
    for (int k = 0; k < kRows; ++k)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[k][v] += load_packet(x + (r + k) * stride + v * L);
  for (; r < n; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[0][v] += load_packet(x + r * stride + v * L);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    Packet<T> sum = acc[0][v];
    if constexpr (kRows == 4) sum = (sum + acc[2][v]) + (acc[1][v] + acc[3][v]);
    store_packet(y + v * L, sum * factor);
  }
}

// y[c] = factor sum over r of x[r * stride + c]
template <class T, class Out>
[[gnu::noinline]] void sum_columns(const T* x, int64_t n, int64_t stride, int64_t cols,
                                   Accumulator<T> factor, Out* y) {
  constexpr int64_t L = kPacket<T>;
  int64_t c = 0;
  for (; c + 8 * L <= cols; c += 8 * L) sum_column_packets<8>(x + c, n, stride, factor, y + c);
  for (; c + 2 * L <= cols; c += 2 * L) sum_column_packets<2>(x + c, n, stride, factor, y + c);
  for (; c + L <= cols; c += L) sum_column_packets<1>(x + c, n, stride, factor, y + c);
  if (c == cols) return;
  const int64_t rest = cols - c;
  if (cols < L && stride == cols && L % cols == 0) {  // a packet holds whole rows
    Packet<T> acc[4] = {};
    for_packets<4, T>(
        n * cols,
        [&](int64_t i, int u) __attribute__((always_inline)) { acc[u] += load_packet(x + i); },
        [&](int64_t i, int64_t count)
            __attribute__((always_inline)) { acc[1] += load_part(x + i, count); });
    Accumulator<T> lanes[L];
    store(lanes, sum_of(acc));
    for (int64_t width = L / 2; width >= cols; width /= 2)
      for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    for (int64_t i = 0; i < cols; ++i) y[i] = Out(factor * lanes[i]);
    return;
  }
  Packet<T> even = {}, odd = {};
  int64_t r = 0;
  for (; r + 2 <= n; r += 2) {
    even += load_part(x + r * stride + c, rest);
    odd += load_part(x + (r + 1) * stride + c, rest);
  }
  if (r < n) even += load_part(x + r * stride + c, rest);
  store_part(y + c, (even + odd) * factor, rest);
}

}  // namespace
}  // namespace pinion::kernels::PINION_RUNG
