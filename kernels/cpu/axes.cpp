// SPDX-License-Identifier: Apache-2.0
// Moving and repeating blocks along axes. What only moves is moved as words of the element's size,
// whatever the element type.
#include "pinion/kernels/cpu/map.h"
#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// Calls f.template operator()<Word>() with an unsigned integer as wide as the elements.
template <class F>
PINION_INLINE void for_word(DType t, F f) {
  switch (size_of(t)) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

// A square of as many rows as a register has lanes.
template <class Word>
PINION_INLINE void transpose_square(const Word* in, int64_t ldi, Word* out, int64_t ldo) {
  constexpr int64_t L = kLanes<Word>;
  Vec<Word> rows[L];
#pragma GCC unroll 32
  for (int64_t i = 0; i < L; ++i) rows[i] = load(in + i * ldi);
  transpose_lanes<Word>(rows);
#pragma GCC unroll 32
  for (int64_t i = 0; i < L; ++i) store(out + i * ldo, rows[i]);
}

// out[j * ldo + i] = in[i * ldi + j] over an m by n matrix of runs of `run` words.
template <class Word>
PINION_INLINE void transpose(const Word* in, int64_t ldi, int64_t m, int64_t n, int64_t run,
                             Word* out, int64_t ldo) {
  if (run > 1) {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < m; ++i)
        copy_words(in + (i * ldi + j) * run, run, out + (j * ldo + i) * run);
    return;
  }
  constexpr int64_t L = kLanes<Word>;
  int64_t j = 0;
  if constexpr (sizeof(Word) > 1) {
    // Down the columns, so that the L lines written to fill up before they leave the cache.
    for (; j + L <= n; j += L) {
      int64_t i = 0;
      for (; i + L <= m; i += L) transpose_square(in + i * ldi + j, ldi, out + j * ldo + i, ldo);
      for (; i < m; ++i)
        for (int64_t k = j; k < j + L; ++k) out[k * ldo + i] = in[i * ldi + k];
    }
  }
  for (; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) out[j * ldo + i] = in[i * ldi + j];
}

}  // namespace

void swap_axes(const CpuContext& ctx, ConstView x, View y) {
  const int64_t a = x.shape[0], run = x.shape[4];
  int64_t m = x.shape[1], b = x.shape[2], n = x.shape[3];
  if (m == 1) m = b, b = 1;  // [1,b,n] -> [n,b,1] and [m,b,1] -> [1,b,m] are matrices too
  if (n == 1) n = b, b = 1;
  for_word(x.dtype, [&]<class Word>() {
    const auto* from = static_cast<const Word*>(x.data);
    auto* to = static_cast<Word*>(y.data);
    // Items are strips of at most 64 rows of the result.
    constexpr int64_t kStrip = 64;
    const int64_t strips = chunk_count(n, kStrip);
    for_rows(ctx, a * b * strips, 2 * m * smaller(n, kStrip) * run,
             [=](int64_t begin, int64_t end, int64_t) {
               for (int64_t item = begin; item < end; ++item) {
                 const int64_t strip = item % strips * kStrip, block = item / strips;
                 const int64_t ia = block / b, ib = block % b;
                 const Word* in = from + ((ia * m * b + ib) * n + strip) * run;
                 Word* out = to + (((ia * n + strip) * b + ib) * m) * run;
                 transpose(in, b * n, m, smaller(kStrip, n - strip), run, out, b * m);
               }
             });
  });
}

void copy_into(const CpuContext& ctx, ConstView x, int64_t at, View y) {
  const int64_t block = x.shape[1] * x.shape[2];  // contiguous in both
  const int64_t stride = y.shape[1] * y.shape[2], first = at * y.shape[2];
  for_word(x.dtype, [&]<class Word>() {
    const auto* from = static_cast<const Word*>(x.data);
    auto* to = static_cast<Word*>(y.data) + first;
    for_rows(ctx, x.shape[0], block, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t o = begin; o < end; ++o) copy_words(from + o * block, block, to + o * stride);
    });
  });
}

void copy_from(const CpuContext& ctx, ConstView x, int64_t at, View y) {
  const int64_t block = y.shape[1] * y.shape[2];
  const int64_t stride = x.shape[1] * x.shape[2], first = at * x.shape[2];
  for_word(x.dtype, [&]<class Word>() {
    const auto* from = static_cast<const Word*>(x.data) + first;
    auto* to = static_cast<Word*>(y.data);
    for_rows(ctx, y.shape[0], block, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t o = begin; o < end; ++o) copy_words(from + o * stride, block, to + o * block);
    });
  });
}

void expand_axis(const CpuContext& ctx, ConstView x, double scale, View y) {
  const int64_t outer = y.shape[0], n = y.shape[1], inner = y.shape[2];
  for_float(y.dtype, "expand_axis", [&]<class T>() {
    using A = Accumulator<T>;
    const T* from = x.as<T>();
    T* to = y.as<T>();
    const A factor = static_cast<A>(scale);
    if (inner == 1) {
      // Long rows are cut, so that one number may fill a whole tensor on all threads.
      const int64_t piece = smaller(n, kParallelGrain), pieces = n > 0 ? chunk_count(n, piece) : 0;
      for_rows(ctx, outer * pieces, piece, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t o = item / pieces, first = item % pieces * piece;
          const Packet<T> value = splat(static_cast<A>(from[o]) * factor);
          const auto same = [value]() __attribute__((always_inline)) { return value; };
          map_range(smaller(piece, n - first), false, same, to + o * n + first);
        }
      });
      return;
    }
    const auto scaled = [factor](Packet<T> v) __attribute__((always_inline)) { return v * factor; };
    const bool stream = worth_streaming(to, outer * n, inner);
    for_rows(ctx, outer * n, inner, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t r = begin; r < end; ++r)
        map_range(inner, stream, scaled, to + r * inner, from + r / n * inner);
      if (stream) end_streaming();
    });
  });
}

void add_bias(const CpuContext& ctx, ConstView x, ConstView b, View y) {
  const int64_t cols = y.cols();
  for_float(y.dtype, "add_bias", [&]<class T>() {
    const T *from = x.as<T>(), *bias = b.as<T>();
    T* to = y.as<T>();
    const bool stream = from != to && worth_streaming(to, y.rows(), cols);
    for_rows(ctx, y.rows(), cols, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t r = begin; r < end; ++r)
        map_range(cols, stream, formulas::Add{}, to + r * cols, from + r * cols, bias);
      if (stream) end_streaming();
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
