// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016). The variance is that of
// the differences from the mean, so it loses no digits where the mean is large.
#include "pinion/kernels/cpu/columns.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kParts = 64;  // partial sums of dgamma and dbeta: enough for any number of cores

// What the backward pass needs of a row beside its mean: the factor of its differences, from
// `spread`, which is rstd, or the standard deviation in the unbiased form; and with
// g = dy gamma what the sum of g xhat is multiplied by: 1 / n, or where std moves by xhat divisor /
// ((n - 1) std) per x, and not at all for equal elements, divisor / ((n - 1) std).
template <class A>
struct RowScale {
  A factor, share;
  RowScale() = default;
  PINION_INLINE RowScale(const LayerNormArgs& args, A spread, int64_t n) {
    const bool unbiased = args.form == LayerNormForm::unbiased_std;
    const A divisor = spread + static_cast<A>(args.eps);
    factor = unbiased ? A(1) / divisor : spread;
    const A slope = spread > 0 ? divisor / (static_cast<A>(n - 1) * spread) : A(0);
    share = unbiased ? slope : A(1) / static_cast<A>(n);
  }
};

template <class T>
struct Moments {
  Accumulator<T> mean, spread, factor;
};

template <class T>
PINION_INLINE Moments<T> moments(const LayerNormArgs& args, const T* x, int64_t n) {
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
  const A squares = lane_sum<A>(sum_of(acc)), eps = static_cast<A>(args.eps);
  if (args.form == LayerNormForm::unbiased_std) {
    const A std = math::sqrt(squares / static_cast<A>(n - 1));
    return {mean, std, A(1) / (std + eps)};
  }
  const A rstd = A(1) / math::sqrt(squares * share + eps);
  return {mean, rstd, rstd};
}

// With kConditional, rows have a delta_gamma.
template <class T, bool kConditional>
struct Backward {
  using A = Accumulator<T>;
  const LayerNormArgs& args;
  const T *x, *gamma, *delta, *dy;
  const A *mean, *spread;
  int64_t n;
  T *dx, *ddelta;  // may be null
  bool stream;

  // Rows [r, r + kRows): dgamma and dbeta [n] gain their sums, dx is written.
  template <int kRows>
  PINION_INLINE void rows(int64_t r, A* dgamma, A* dbeta) const {
    const T *px = x + r * n, *pdy = dy + r * n, *pdelta = delta + (kConditional ? r * n : 0);
    Packet<T> sum_g[kRows] = {}, sum_gx[kRows] = {};
    RowScale<A> scale_of[kRows];
    for (int k = 0; k < kRows; ++k) scale_of[k] = RowScale<A>(args, spread[r + k], n);
    const auto column = [&](Packet<T> scale, Packet<T> & dg, Packet<T> & db, auto load_row,
                            auto store_row) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int k = 0; k < kRows; ++k) {
        const Packet<T> d = load_row(pdy + k * n, A(0));
        const Packet<T> xhat =
            (load_row(px + k * n, mean[r + k]) - mean[r + k]) * scale_of[k].factor;
        Packet<T> g = d * scale;
        if constexpr (kConditional) {
          g += d * load_row(pdelta + k * n, A(0));
          if (ddelta) store_row(ddelta + (r + k) * n, d * xhat);
        }
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
              db, [i](const T* p, A) __attribute__((always_inline)) { return load_packet(p + i); },
              [i](T * p, Packet<T> v) __attribute__((always_inline)) { store_packet(p + i, v); });
          store(dgamma + i, dg);
          store(dbeta + i, db);
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          Packet<T> dg = load_part(dgamma + i, count), db = load_part(dbeta + i, count);
          column(
              load_part(gamma + i, count), dg, db,
              [=](const T* p, A rest)
                  __attribute__((always_inline)) { return load_part(p + i, count, rest); },
              [=](T * p, Packet<T> v)
                  __attribute__((always_inline)) { store_part(p + i, v, count); });
          store_part(dgamma + i, dg, count);
          store_part(dbeta + i, db, count);
        });
    if (!dx) return;
    const A share = A(1) / static_cast<A>(n);
#pragma GCC unroll 4
    for (int k = 0; k < kRows; ++k)
      write_dx(r + k, scale_of[k].factor, lane_sum<A>(sum_g[k]) * share,
               lane_sum<A>(sum_gx[k]) * scale_of[k].share);
  }

  PINION_INLINE void write_dx(int64_t r, A scale, A mean_g, A mean_gx) const {
    const T *px = x + r * n, *pdy = dy + r * n, *pdelta = delta + (kConditional ? r * n : 0);
    T* out = dx + r * n;
    const A center = mean[r];
    const auto value = [=](Packet<T> v, Packet<T> d, Packet<T> g) __attribute__((always_inline)) {
      const Packet<T> xhat = (v - center) * scale;
      return (d * g - mean_g - xhat * mean_gx) * scale;
    };
    for_packets<2, T>(
        n,
        [&](int64_t i, int) __attribute__((always_inline)) {
          Packet<T> weight = load_packet(gamma + i);
          if constexpr (kConditional) weight += load_packet(pdelta + i);
          put_packet(out + i, value(load_packet(px + i), load_packet(pdy + i), weight), stream);
        },
        [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          Packet<T> weight = load_part(gamma + i, count);
          if constexpr (kConditional) weight += load_part(pdelta + i, count);
          store_part(out + i, value(load_part(px + i, count), load_part(pdy + i, count), weight),
                     count);
        });
  }
};

// y of one row. delta and shift_delta are its own, or null.
template <bool kConditional, class T>
PINION_INLINE void normalise(const T* x, int64_t n, Accumulator<T> mean, Accumulator<T> factor,
                             const T* gamma, const T* beta, const T* delta_gamma,
                             const T* delta_beta, bool stream, T* y) {
  for_packets<2, T>(
      n,
      [=](int64_t i, int) __attribute__((always_inline)) {
        Packet<T> scale = load_packet(gamma + i), shift = load_packet(beta + i);
        if constexpr (kConditional) {
          scale += load_packet(delta_gamma + i);
          shift += load_packet(delta_beta + i);
        }
        put_packet(y + i, (load_packet(x + i) - mean) * factor * scale + shift, stream);
      },
      [=](int64_t i, int64_t count) __attribute__((always_inline)) {
        Packet<T> scale = load_part(gamma + i, count), shift = load_part(beta + i, count);
        if constexpr (kConditional) {
          scale += load_part(delta_gamma + i, count);
          shift += load_part(delta_beta + i, count);
        }
        store_part(y + i, (load_part(x + i, count) - mean) * factor * scale + shift, count);
      });
}

template <class T, bool kConditional>
void forward(const CpuContext& ctx, const LayerNormArgs& args) {
  using A = Accumulator<T>;
  const int64_t n = args.x.cols(), rows = args.x.rows();
  const T *x = args.x.as<T>(), *gamma = args.gamma.as<T>(), *beta = args.beta.as<T>();
  const T* delta_gamma = kConditional ? args.delta_gamma.as<T>() : nullptr;
  const T* delta_beta = kConditional ? args.delta_beta.as<T>() : nullptr;
  T* y = args.y.as<T>();
  A *mean = args.mean.as<A>(), *spread = args.spread.as<A>();
  const bool stream = x != y && worth_streaming(y, rows, n);
  for_rows(ctx, rows, 3 * n, [=, &args](int64_t begin, int64_t end, int64_t) {
    for (int64_t r = begin; r < end; ++r) {
      const auto [center, width, factor] = moments(args, x + r * n, n);
      mean[r] = center;
      spread[r] = width;
      const int64_t own = kConditional ? r * n : 0;
      normalise<kConditional>(x + r * n, n, center, factor, gamma, beta, delta_gamma + own,
                              delta_beta + own, stream, y + r * n);
    }
    if (stream) end_streaming();
  });
}

template <class T, bool kConditional>
void backward(const CpuContext& ctx, const LayerNormArgs& args) {
  using A = Accumulator<T>;
  const int64_t n = args.x.cols(), rows = args.x.rows();
  const View& dx = args.dx;
  const Backward<T, kConditional> back{args,
                                       args.x.as<T>(),
                                       args.gamma.as<T>(),
                                       kConditional ? args.delta_gamma.as<T>() : nullptr,
                                       args.dy.as<T>(),
                                       args.mean.as<A>(),
                                       args.spread.as<A>(),
                                       n,
                                       dx ? dx.as<T>() : nullptr,
                                       args.ddelta_gamma ? args.ddelta_gamma.as<T>() : nullptr,
                                       dx && dx.data != args.x.data && dx.data != args.dy.data &&
                                           worth_streaming(dx.as<T>(), rows, n)};
  const int64_t cost = 4 * (n > 0 ? n : 1);
  int64_t grain = kParallelGrain / cost;
  grain = larger(larger(grain, int64_t{1}), chunk_count(rows, kParts));
  const int64_t parts = chunk_count(rows, grain);
  const Scratch scratch((parts + 1) * 2 * n * static_cast<int64_t>(sizeof(A)));
  A* partial = scratch.as<A>();  // [parts, 2, n]
  for_chunks(ctx, rows, grain, [=, &back](int64_t begin, int64_t end, int64_t chunk) {
    A *dg = partial + chunk * 2 * n, *db = dg + n;
    for (int64_t i = 0; i < 2 * n; ++i) dg[i] = 0;
    int64_t r = begin;
    for (; r + 4 <= end; r += 4) back.template rows<4>(r, dg, db);
    for (; r < end; ++r) back.template rows<1>(r, dg, db);
    if (back.stream) end_streaming();
  });
  if (args.dgamma) sum_columns(partial, parts, 2 * n, n, A(1), args.dgamma.as<T>());
  if (args.dbeta) sum_columns(partial + n, parts, 2 * n, n, A(1), args.dbeta.as<T>());
}

}  // namespace

void layer_norm_forward(const CpuContext& ctx, LayerNormArgs args) {
  if (const ResidualArgs& r = args.residual; r.branch) {
    dropout(ctx, r.branch, r.dropout, r.key, r.sum);
    add(ctx, r.x, r.sum, r.sum);
  }
  for_float(args.x.dtype, "layer_norm_forward", [&]<class T>() {
    args.delta_gamma ? forward<T, true>(ctx, args) : forward<T, false>(ctx, args);
  });
}

void layer_norm_backward(const CpuContext& ctx, LayerNormArgs args) {
  for_float(args.x.dtype, "layer_norm_backward", [&]<class T>() {
    args.delta_gamma ? backward<T, true>(ctx, args) : backward<T, false>(ctx, args);
  });
  const ResidualArgs& r = args.residual;
  if (r.dsum) add(ctx, r.dsum, args.dx, args.dx);
  if (r.dbranch) dropout(ctx, args.dx, r.dropout, r.key, r.dbranch);
}

}  // namespace pinion::kernels::PINION_RUNG
