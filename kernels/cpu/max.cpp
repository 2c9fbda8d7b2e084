// SPDX-License-Identifier: Apache-2.0
// The largest element along an axis and where it is first reached. A NaN is larger than everything,
// as it is for torch.
#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

template <class Mask>
PINION_INLINE bool any(Mask mask) {
  const auto words = bit_cast<Vec<int64_t>>(mask);
  int64_t all = 0;
  for (int i = 0; i < kLanes<int64_t>; ++i) all |= words[i];
  return all != 0;
}

// The first i in [0, n) where test(packet) holds.
template <class T, class Test>
PINION_INLINE int64_t first_where(const T* x, int64_t n, Test test) {
  constexpr int64_t L = kPacket<T>;
  int64_t i = 0;
  while (i + L <= n && !any(test(load_packet(x + i)))) i += L;
  for (; i < n; ++i)
    if (test(splat(static_cast<Accumulator<T>>(x[i])))[0]) return i;
  return n - 1;
}

template <class T>
PINION_INLINE void max_of_row(const T* x, int64_t n, T& y, int64_t& index) {
  if (n < 2 * kPacket<T>) {  // two classes, say
    int64_t best = 0;
    Accumulator<T> top = x[0];
    for (int64_t i = 1; i < n && top == top; ++i) {
      const Accumulator<T> v = x[i];
      if (!(v <= top)) top = v, best = i;
    }
    y = x[best];
    index = best;
    return;
  }
  Int<Packet<T>> odd[2] = {};
  for_packets<2, T>(
      n,
      [&](int64_t i, int u) __attribute__((always_inline)) {
        const Packet<T> v = load_packet(x + i);
        odd[u] |= v != v;
      },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const Packet<T> v = load_part(x + i, count);
        odd[1] |= v != v;
      });
  int64_t at;
  if (any(odd[0] | odd[1])) [[unlikely]] {
    at = first_where(
        x, n, [](auto v) __attribute__((always_inline)) { return v != v; });
  } else {
    const auto best = splat(row_max(x, n));
    at = first_where(
        x, n, [best](auto v) __attribute__((always_inline)) { return v == best; });
  }
  y = x[at];
  index = at;
}

// Columns [0, count) of one [n, inner] block, at most one packet of them.
template <class T>
PINION_INLINE void max_of_columns(const T* x, int64_t n, int64_t inner, int64_t count, T* y,
                                  int64_t* index) {
  const auto row = [&](int64_t r) __attribute__((always_inline)) {
    return count == kPacket<T> ? load_packet(x + r * inner) : load_part(x + r * inner, count);
  };
  using Index = Int<Packet<T>>;
  Packet<T> best = row(0);
  Index at = {};
  for (int64_t r = 1; r < n; ++r) {
    const Packet<T> v = row(r);
    const auto take = (v > best) | ((v != v) & (best == best));
    best = take ? v : best;
    at = take ? Index{} + static_cast<Number<Index>>(r) : at;
  }
  for (int64_t i = 0; i < count; ++i) index[i] = at[i];
  if (count == kPacket<T>) {
    store_packet(y, best);
  } else {
    store_part(y, best, count);
  }
}

}  // namespace

void max_axis(const CpuContext& ctx, ConstView x, View y, View index) {
  const int64_t outer = x.shape[0], n = x.shape[1], inner = x.shape[2];
  for_float(x.dtype, "max_axis", [&]<class T>() {
    const T* from = x.as<T>();
    T* to = y.as<T>();
    int64_t* at = index.as<int64_t>();
    for_rows(ctx, outer, n * inner, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t o = begin; o < end; ++o) {
        if (inner == 1) {
          max_of_row(from + o * n, n, to[o], at[o]);
          continue;
        }
        for (int64_t c = 0; c < inner; c += kPacket<T>)
          max_of_columns(from + o * n * inner + c, n, inner, smaller(kPacket<T>, inner - c),
                         to + o * inner + c, at + o * inner + c);
      }
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
