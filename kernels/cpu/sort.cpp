// SPDX-License-Identifier: Apache-2.0
// Stable radix sort, running sums, and the largest elements of rows.
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int kDigitBits = 8;
constexpr int64_t kDigits = 1 << kDigitBits;

template <class Bits>
struct Entry {
  Bits bits;  // the key with its sign flipped, so that it sorts as an unsigned number
  int64_t index;
};

// From the lowest digit to the highest. A digit that all keys share, as the high ones of ids do,
// costs nothing but its count.
template <class Key>
void radix_sort(const Key* keys, int64_t n, Key* sorted, int64_t* index) {
  using Bits = std::make_unsigned_t<Key>;
  constexpr int64_t kPlaces = sizeof(Key);
  constexpr Bits kSign = Bits{1} << (8 * kPlaces - 1);
  const Scratch memory(2 * n * static_cast<int64_t>(sizeof(Entry<Bits>)));
  auto *from = memory.as<Entry<Bits>>(), *to = from + n;
  int64_t counts[kPlaces][kDigits] = {};
  const auto digit = [](Bits bits, int64_t place) { return bits >> (place * kDigitBits) & 255; };
  for (int64_t i = 0; i < n; ++i) {
    from[i] = {static_cast<Bits>(keys[i]) ^ kSign, i};
    for (int64_t p = 0; p < kPlaces; ++p) ++counts[p][digit(from[i].bits, p)];
  }
  for (int64_t p = 0; p < kPlaces; ++p) {
    if (n == 0 || counts[p][digit(from[0].bits, p)] == n) continue;
    int64_t begin = 0;
    for (int64_t& count : counts[p]) {  // becomes where the digit's entries go
      const int64_t here = count;
      count = begin;
      begin += here;
    }
    for (int64_t i = 0; i < n; ++i) to[counts[p][digit(from[i].bits, p)]++] = from[i];
    Entry<Bits>* const swap = from;
    from = to, to = swap;
  }
  for (int64_t i = 0; i < n; ++i) {
    sorted[i] = static_cast<Key>(from[i].bits ^ kSign);
    index[i] = from[i].index;
  }
}

template <class A>
PINION_INLINE bool greater(A a, A b) {  // NaN is greater than everything else
  return a > b || (a != a && b == b);
}

// Keeps the largest so far in falling order; an element goes behind those that it equals.
template <class T>
void largest_of_row(const T* x, int64_t n, int64_t k, T* y, int64_t* index) {
  using A = Accumulator<T>;
  for (int64_t i = 0; i < n; ++i) {
    const A v = x[i];
    int64_t at = smaller(i, k);
    if (at == k && !greater(v, static_cast<A>(y[k - 1]))) continue;
    at = smaller(at, k - 1);
    for (; at > 0 && greater(v, static_cast<A>(y[at - 1])); --at)
      y[at] = y[at - 1], index[at] = index[at - 1];
    y[at] = x[i], index[at] = i;
  }
}

}  // namespace

void sort_pairs(const CpuContext&, ConstView keys, View sorted, View index) {
  if (keys.dtype == DType::i32)
    radix_sort(keys.as<int32_t>(), keys.numel(), sorted.as<int32_t>(), index.as<int64_t>());
  else
    radix_sort(keys.as<int64_t>(), keys.numel(), sorted.as<int64_t>(), index.as<int64_t>());
}

void exclusive_scan(const CpuContext&, ConstView x, View y) {
  const int64_t* from = x.as<int64_t>();
  int64_t* to = y.as<int64_t>();
  int64_t sum = 0;
  for (int64_t i = 0; i < y.numel(); ++i) {
    const int64_t v = from[i];  // x may be y
    to[i] = sum;
    sum += v;
  }
}

void top_k(const CpuContext& ctx, ConstView x, View y, View index) {
  const int64_t n = x.cols(), k = y.cols();
  if (k == 0) return;
  for_float(x.dtype, "top_k", [&]<class T>() {
    const T* from = x.as<T>();
    T* to = y.as<T>();
    int64_t* at = index.as<int64_t>();
    for_rows(ctx, x.rows(), n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t r = begin; r < end; ++r)
        largest_of_row(from + r * n, n, k, to + r * k, at + r * k);
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
