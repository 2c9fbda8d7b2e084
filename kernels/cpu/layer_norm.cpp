// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016). The variance is that of
// the differences from the mean, so it loses no digits where the mean is large.
#include "pinion/kernels/cpu/columns.h"
#include "pinion/kernels/cpu/scratch.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kParts = 64;  // partial sums of dgamma and dbeta: enough for any number of cores

template <class T>
struct Moments {
  Accumulator<T> mean, rstd;
};

template <class T>
PINION_INLINE Moments<T> moments(const T* x, int64_t n, double eps) {
  using A = Accumulator<T>;
  const A share = A(1) / static_cast<A>(n), mean = row_sum(x, n) * share;
  Packet<T> acc[4] = {};
  for_packets<4, T>(
      n,
      [&](int64_t i, int u) __attribute__((always_inline)) {
        const Packet<T> d = load_packet(x + i) - mean;
        acc[u] += d * d;
      },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const Packet<T> d = load_part(x + i, count, mean) - mean;
        acc[1] += d * d;
      });
  const A variance = lane_sum<A>(sum_of(acc)) * share;
  return {mean, A(1) / math::sqrt(variance + static_cast<A>(eps))};
}

template <class T>
struct Backward {
  using A = Accumulator<T>;
  const T *x, *gamma, *dy;
  const A *mean, *rstd;
  int64_t n;
  T* dx;  // may be null
  bool stream;

  // Rows [r, r + kRows): dgamma and dbeta [n] gain their sums, dx is written.
  template <int kRows>
  PINION_INLINE void rows(int64_t r, A* dgamma, A* dbeta) const {
    const T *px = x + r * n, *pdy = dy + r * n;
    Packet<T> sum_g[kRows] = {}, sum_gx[kRows] = {};
    const auto column = [&](Packet<T> scale, Packet<T> & dg, Packet<T> & db, auto load_row)
        __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int k = 0; k < kRows; ++k) {
        const Packet<T> d = load_row(pdy + k * n, A(0));
        const Packet<T> xhat = (load_row(px + k * n, mean[r + k]) - mean[r + k]) * rstd[r + k];
        const Packet<T> g = d * scale;
        sum_g[k] += g;
        sum_gx[k] += g * xhat;
        dg += d * xhat;
        db += d;
      }
    };
    for_packets<1, T>(
        n,
        [&](int64_t i, int) __attribute__((always_inline)) {
          Packet<T> dg = load(dgamma + i), db = load(dbeta + i);
          column(
              load_packet(gamma + i), dg,
              db, [i](const T* p, A) __attribute__((always_inline)) { return load_packet(p + i); });
          store(dgamma + i, dg);
          store(dbeta + i, db);
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          Packet<T> dg = load_part(dgamma + i, count), db = load_part(dbeta + i, count);
          column(
              load_part(gamma + i, count), dg,
              db, [=](const T* p, A rest) __attribute__((always_inline)) {
                return load_part(p + i, count, rest);
              });
          store_part(dgamma + i, dg, count);
          store_part(dbeta + i, db, count);
        });
    if (!dx) return;
    const A share = A(1) / static_cast<A>(n);
#pragma GCC unroll 4
    for (int k = 0; k < kRows; ++k)
      write_dx(r + k, lane_sum<A>(sum_g[k]) * share, lane_sum<A>(sum_gx[k]) * share);
  }

  PINION_INLINE void write_dx(int64_t r, A mean_g, A mean_gx) const {
    const T *px = x + r * n, *pdy = dy + r * n;
    T* out = dx + r * n;
    const A center = mean[r], scale = rstd[r];
    const auto value = [=](Packet<T> v, Packet<T> d, Packet<T> g) __attribute__((always_inline)) {
      const Packet<T> xhat = (v - center) * scale;
      return (d * g - mean_g - xhat * mean_gx) * scale;
    };
    for_packets<2, T>(
        n,
        [&](int64_t i, int) __attribute__((always_inline)) {
          put_packet(out + i,
                     value(load_packet(px + i), load_packet(pdy + i), load_packet(gamma + i)),
                     stream);
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          store_part(out + i,
                     value(load_part(px + i, count), load_part(pdy + i, count),
                           load_part(gamma + i, count)),
                     count);
        });
  }
};

}  // namespace

void layer_norm_forward(const CpuContext& ctx, ConstView x, ConstView gamma, ConstView beta,
                        double eps, View y, View mean, View rstd) {
  const int64_t n = x.cols();
  for_float(x.dtype, "layer_norm_forward", [&]<class T>() {
    using A = Accumulator<T>;
    const T *px = x.as<T>(), *scale = gamma.as<T>(), *shift = beta.as<T>();
    T* py = y.as<T>();
    A *pmean = mean.as<A>(), *prstd = rstd.as<A>();
    const bool stream = px != py && worth_streaming(py, x.rows(), n);
    for_rows(ctx, x.rows(), 3 * n, [=](int64_t begin, int64_t end, int64_t) {
      for (int64_t r = begin; r < end; ++r) {
        const T* from = px + r * n;
        T* to = py + r * n;
        const auto [center, factor] = moments(from, n, eps);
        pmean[r] = center;
        prstd[r] = factor;
        for_packets<2, T>(
            n,
            [&, center = center, factor = factor ](int64_t i, int) __attribute__((always_inline)) {
              const Packet<T> xhat = (load_packet(from + i) - center) * factor;
              put_packet(to + i, xhat * load_packet(scale + i) + load_packet(shift + i), stream);
            },
            [&, center = center, factor =
             factor ](int64_t i, int64_t count) __attribute__((always_inline)) {
              const Packet<T> xhat = (load_part(from + i, count) - center) * factor;
              store_part(to + i, xhat * load_part(scale + i, count) + load_part(shift + i, count),
                         count);
            });
      }
      if (stream) end_streaming();
    });
  });
}

void layer_norm_backward(const CpuContext& ctx, ConstView x, ConstView gamma, ConstView mean,
                         ConstView rstd, ConstView dy, View dx, View dgamma, View dbeta) {
  const int64_t n = x.cols(), rows = x.rows();
  for_float(x.dtype, "layer_norm_backward", [&]<class T>() {
    using A = Accumulator<T>;
    const Backward<T> back{
        x.as<T>(),
        gamma.as<T>(),
        dy.as<T>(),
        mean.as<A>(),
        rstd.as<A>(),
        n,
        dx ? dx.as<T>() : nullptr,
        dx && dx.data != x.data && dx.data != dy.data && worth_streaming(dx.as<T>(), rows, n)};
    const int64_t cost = 4 * (n > 0 ? n : 1);
    int64_t grain = kParallelGrain / cost;
    grain = larger(larger(grain, int64_t{1}), chunk_count(rows, kParts));
    const int64_t parts = chunk_count(rows, grain);
    const Scratch scratch((parts + 1) * 2 * n * static_cast<int64_t>(sizeof(A)));
    A* partial = scratch.as<A>();  // [parts, 2, n]
    for_chunks(ctx, rows, grain, [=](int64_t begin, int64_t end, int64_t chunk) {
      A *dg = partial + chunk * 2 * n, *db = dg + n;
      for (int64_t i = 0; i < 2 * n; ++i) dg[i] = 0;
      int64_t r = begin;
      for (; r + 4 <= end; r += 4) back.template rows<4>(r, dg, db);
      for (; r < end; ++r) back.template rows<1>(r, dg, db);
      if (back.stream) end_streaming();
    });
    if (dgamma) sum_columns(partial, parts, 2 * n, n, A(1), dgamma.as<T>());
    if (dbeta) sum_columns(partial + n, parts, 2 * n, n, A(1), dbeta.as<T>());
  });
}

}  // namespace pinion::kernels::PINION_RUNG
