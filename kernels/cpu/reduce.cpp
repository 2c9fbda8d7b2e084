// SPDX-License-Identifier: Apache-2.0
// Sums over rows, columns and axes. Long sums are cut on a grid that depends on the shape alone,
// and the parts are added in the order of the grid.
#include "pinion/kernels/cpu/columns.h"
#include "pinion/kernels/cpu/scratch.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kMaxParts = 1024;   // of one sum over contiguous elements
constexpr int64_t kColumnParts = 64;  // of one sum over rows
constexpr int64_t kColumnBlock = 512;

// y[o] = scale sum x[o,:]
template <class T>
void sum_contiguous(const CpuContext& ctx, const T* x, int64_t outer, int64_t n, double scale,
                    T* y) {
  using A = Accumulator<T>;
  const A factor = static_cast<A>(scale);
  if (n <= 2 * kParallelGrain) {
    for_rows(ctx, outer, n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t o = begin; o < end; ++o) y[o] = T(factor * row_sum(x + o * n, n));
    });
    return;
  }
  int64_t grain = kParallelGrain;
  while (chunk_count(n, grain) > kMaxParts) grain *= 2;
  double parts[kMaxParts];
  for (int64_t o = 0; o < outer; ++o) {
    const T* row = x + o * n;
    for_chunks(ctx, n, grain, [&](int64_t begin, int64_t end, int64_t chunk) {
      parts[chunk] = row_sum(row + begin, end - begin);
    });
    double total = 0;
    for (int64_t c = 0; c < chunk_count(n, grain); ++c) total += parts[c];
    y[o] = T(static_cast<A>(total * scale));
  }
}

// y[o,i] = scale sum over n of x[o,n,i]
template <class T>
void sum_strided(const CpuContext& ctx, const T* x, int64_t outer, int64_t n, int64_t inner,
                 double scale, T* y) {
  using A = Accumulator<T>;
  const A factor = static_cast<A>(scale);
  if (outer * n * inner <= kParallelGrain) {
    for (int64_t o = 0; o < outer; ++o)
      sum_columns(x + o * n * inner, n, inner, inner, factor, y + o * inner);
    return;
  }
  const int64_t blocks = chunk_count(inner, kColumnBlock);
  if (outer * blocks >= 16 || n < 2 * kColumnParts) {  // enough columns to share out
    for_rows(ctx, outer * blocks, n * smaller(inner, kColumnBlock),
             [=](int64_t begin, int64_t end, int64_t) {
               for (int64_t at = begin; at < end; ++at) {
                 const int64_t o = at / blocks, c = at % blocks * kColumnBlock;
                 sum_columns(x + o * n * inner + c, n, inner, smaller(kColumnBlock, inner - c),
                             factor, y + o * inner + c);
               }
             });
    return;
  }
  const int64_t wanted = smaller(kColumnParts, chunk_count(n * inner, kParallelGrain));
  const int64_t rows = chunk_count(n, wanted), parts = chunk_count(n, rows);
  const Scratch scratch(outer * parts * inner * static_cast<int64_t>(sizeof(A)));
  A* partial = scratch.as<A>();  // [outer, parts, inner]
  for_chunks(ctx, outer * parts, 1, [=](int64_t at, int64_t, int64_t) {
    const int64_t o = at / parts, first = at % parts * rows;
    sum_columns(x + (o * n + first) * inner, smaller(rows, n - first), inner, inner, A(1),
                partial + at * inner);
  });
  for (int64_t o = 0; o < outer; ++o)
    sum_columns(partial + o * parts * inner, parts, inner, inner, factor, y + o * inner);
}

}  // namespace

void sum_axis(const CpuContext& ctx, ConstView x, double scale, View y) {
  const int64_t outer = x.shape[0], n = x.shape[1], inner = x.shape[2];
  for_float(x.dtype, "sum_axis", [&]<class T>() {
    if (inner == 1) {
      sum_contiguous(ctx, x.as<T>(), outer, n, scale, y.as<T>());
    } else {
      sum_strided(ctx, x.as<T>(), outer, n, inner, scale, y.as<T>());
    }
  });
}

void sum_rows(const CpuContext& ctx, ConstView x, View y) {
  for_float(x.dtype, "sum_rows", [&]<class T>() {
    if (x.cols() == 1) {
      sum_contiguous(ctx, x.as<T>(), 1, x.rows(), 1, y.as<T>());
    } else {
      sum_strided(ctx, x.as<T>(), 1, x.rows(), x.cols(), 1, y.as<T>());
    }
  });
}

// Squares are summed in double: 2^24 of them lose nothing that a clipping factor could show.
void squares_and_nonfinite(const CpuContext& ctx, ConstView x, View out) {
  const int64_t n = x.numel();
  double* result = out.as<double>();  // [2]
  int64_t grain = kParallelGrain;
  while (chunk_count(n, grain) > kMaxParts) grain *= 2;
  double squares[kMaxParts], nonfinite[kMaxParts];
  for_float(x.dtype, "squares_and_nonfinite", [&]<class T>() {
    using A = Accumulator<T>;
    const T* p = x.as<T>();
    for_chunks(ctx, n, grain, [&](int64_t begin, int64_t end, int64_t chunk) {
      typedef A HalfPacket __attribute__((vector_size(PINION_VECTOR_BYTES / 8 * sizeof(A))));
      Vec<double> acc[8] = {};
      Int<Packet<T>> bad[4] = {};
      const auto take = [&](Packet<T> v, int u) __attribute__((always_inline)) {
        // All exponent bits set: infinity and NaN. A true lane is -1.
        constexpr auto top =
            static_cast<Number<Int<Packet<T>>>>(sizeof(A) == 4 ? 0x7f800000 : 0x7ff0000000000000);
        bad[u] += (bit_cast<Int<Packet<T>>>(v) & top) == top;
        constexpr int kParts = 8 / sizeof(A);
        HalfPacket parts[kParts];
        __builtin_memcpy(parts, &v, sizeof v);
#pragma GCC unroll 2
        for (int h = 0; h < kParts; ++h) {
          const Vec<double> wide = __builtin_convertvector(parts[h], Vec<double>);
          acc[2 * u + h] += wide * wide;
        }
      };
      for_packets<4, T>(
          end - begin,
          [&](int64_t i, int u)
              __attribute__((always_inline)) { take(load_packet(p + begin + i), u); },
          [&](int64_t i, int64_t count)
              __attribute__((always_inline)) { take(load_part(p + begin + i, count), 1); });
      squares[chunk] = lane_sum<double>(sum_of(acc));
      nonfinite[chunk] = -static_cast<double>(lane_sum<Number<Int<Packet<T>>>>(sum_of(bad)));
    });
  });
  result[0] = result[1] = 0;
  for (int64_t c = 0; c < chunk_count(n, grain); ++c) {
    result[0] += squares[c];
    result[1] += nonfinite[c];
  }
}

}  // namespace pinion::kernels::PINION_RUNG
