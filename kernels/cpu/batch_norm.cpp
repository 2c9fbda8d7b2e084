// SPDX-License-Identifier: Apache-2.0
// Batch normalisation of [N,H,W,C] images, every channel over a group of images and their pixels
// (Ioffe & Szegedy 2015). A chunk of pixels is read twice while it is in cache, so that its sum of
// squares is about its own mean; chunks are combined in their order by Chan, Golub & LeVeque,
// "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
#include "pinion/kernels/cpu/columns.h"
#include "pinion/kernels/cpu/scratch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

constexpr int64_t kChunkElements = 32768;  // 128 KiB of f32: stays in L2
constexpr int64_t kParts = 64;             // chunks of a group, at most: enough for many cores

// Pixels as rows of channels, cut into chunks that lie within one group each.
struct Grid {
  int64_t groups, rows, channels;  // rows of a group
  int64_t grain, chunks;           // rows of a chunk, chunks of a group

  Grid(const ConstView& x, int64_t group_count, int64_t most_chunks)
      : groups(group_count), rows(x.rows() / group_count), channels(x.cols()) {
    const int64_t wanted = kChunkElements / larger(channels, int64_t{1});
    grain = larger(larger(wanted, int64_t{1}), chunk_count(rows, most_chunks));
    chunks = chunk_count(rows, grain);
  }

  // f(group, first row of all, rows, chunk of all)
  template <class F>
  PINION_INLINE void each(const CpuContext& ctx, const F& f) const {
    for_chunks(ctx, groups * chunks, 1, [&](int64_t at, int64_t, int64_t) {
      const int64_t g = at / chunks, begin = at % chunks * grain;
      f(g, g * rows + begin, smaller(grain, rows - begin), at);
    });
  }
};

// f(get, put) for packets of channels: get(p) reads the packet's elements of p, put(p, v) writes
// them.
template <class T, class F>
PINION_INLINE void for_channels(int64_t channels, F f) {
  for_packets<1, T>(
      channels,
      [&](int64_t i, int) __attribute__((always_inline)) {
        f(
            [=](const auto* p) __attribute__((always_inline)) { return load_packet(p + i); }, [=
        ](auto* p, Packet<T> v) __attribute__((always_inline)) { store_packet(p + i, v); });
      },
      [&](int64_t i, int64_t n) __attribute__((always_inline)) {
        f(
            [=](const auto* p) __attribute__((always_inline)) { return load_part(p + i, n); }, [=
        ](auto* p, Packet<T> v) __attribute__((always_inline)) { store_part(p + i, v, n); });
      });
}

// mean[c] and m2[c], the sum of squares about it, of n rows.
template <class T>
__attribute__((noinline)) void moments_of_rows(const T* x, int64_t n, int64_t channels,
                                               Accumulator<T>* mean, Accumulator<T>* m2) {
  using A = Accumulator<T>;
  sum_columns(x, n, channels, channels, A(1) / static_cast<A>(n), mean);
  for (int64_t c = 0; c < channels; ++c) m2[c] = 0;
  for (int64_t r = 0; r < n; r += 4) {  // four rows for one round trip of the sums
    const int64_t count = smaller(int64_t{4}, n - r);
    const T* row = x + r * channels;
    for_channels<T>(
        channels, [&](auto get, auto put) __attribute__((always_inline)) {
          const Packet<T> center = get(mean);
          Packet<T> sum = get(m2);
          for (int64_t k = 0; k < count; ++k) {
            const Packet<T> d = get(row + k * channels) - center;
            sum += d * d;
          }
          put(m2, sum);
        });
  }
}

// The moments of chunks, in their order, to mean[c] and var[c] of the group. Sums are double: this
// runs once per channel and chunk.
template <class A>
void combine_moments(const Grid& grid, const A* parts, A* mean, A* var) {
  for (int64_t c = 0; c < grid.channels; ++c) {
    double count = 0, center = 0, m2 = 0;
    for (int64_t k = 0; k < grid.chunks; ++k) {
      const A* part = parts + 2 * k * grid.channels + c;
      const auto n = static_cast<double>(smaller(grid.grain, grid.rows - k * grid.grain));
      const double d = static_cast<double>(part[0]) - center;
      count += n;
      center += d * n / count;
      m2 += static_cast<double>(part[grid.channels]) + d * d * n * (count - n) / count;
    }
    mean[c] = static_cast<A>(center);
    var[c] = static_cast<A>(m2 / count);
  }
}

// r += momentum (batch - r), the variance unbiased as torch has it.
template <class A>
void follow(const Grid& grid, double momentum, const A* mean, const A* var, A* running_mean,
            A* running_var) {
  const auto n = static_cast<double>(grid.rows);
  const double unbiased = n / (n - 1);
  for (int64_t c = 0; c < grid.channels; ++c) {
    running_mean[c] += static_cast<A>(momentum * (double(mean[c]) - double(running_mean[c])));
    running_var[c] +=
        static_cast<A>(momentum * (double(var[c]) * unbiased - double(running_var[c])));
  }
}

// scale = gamma / sqrt(var + eps); without gamma 1 / sqrt(var + eps).
template <class A>
PINION_INLINE void scales_of(const A* var, const A* gamma, double eps, int64_t channels, A* scale) {
  for (int64_t c = 0; c < channels; ++c)
    scale[c] = (gamma ? gamma[c] : A(1)) / math::sqrt(var[c] + static_cast<A>(eps));
}

template <class T, bool kResidual>
__attribute__((noinline)) void apply_rows(const T* x, const T* residual, int64_t n,
                                          int64_t channels, const Accumulator<T>* mean,
                                          const Accumulator<T>* scale, const Accumulator<T>* beta,
                                          bool relu, T* y) {
  for (int64_t r = 0; r < n; ++r, x += channels, residual += channels, y += channels)
    for_channels<T>(
        channels, [&](auto get, auto put) __attribute__((always_inline)) {
          Packet<T> v = (get(x) - get(mean)) * get(scale) + get(beta);
          if constexpr (kResidual) v += get(residual);
          put(y, relu ? formulas::Relu{}(v) : v);
        });
}

// sum_d[c] and sum_dx[c] gain the sums over n rows of d and d xhat.
template <class T, bool kRelu>
__attribute__((noinline)) void sum_rows_of_gradients(const T* x, const T* y, const T* dy, int64_t n,
                                                     int64_t channels, const Accumulator<T>* mean,
                                                     const Accumulator<T>* rstd,
                                                     Accumulator<T>* sum_d,
                                                     Accumulator<T>* sum_dx) {
  for (int64_t c = 0; c < channels; ++c) sum_d[c] = sum_dx[c] = 0;
  for (int64_t r = 0; r < n; r += 4) {
    const int64_t count = smaller(int64_t{4}, n - r), at = r * channels;
    for_channels<T>(
        channels, [&](auto get, auto put) __attribute__((always_inline)) {
          const Packet<T> center = get(mean), scale = get(rstd);
          Packet<T> sum = get(sum_d), sum_x = get(sum_dx);
          for (int64_t k = 0; k < count; ++k) {
            const int64_t row = at + k * channels;
            Packet<T> d = get(dy + row);
            if constexpr (kRelu) d = formulas::ReluBackward{}(get(y + row), d);
            sum += d;
            sum_x += d * ((get(x + row) - center) * scale);
          }
          put(sum_d, sum);
          put(sum_dx, sum_x);
        });
  }
}

// dx = factor d - offset - slope (x - mean), any part of which may be left out.
template <class T>
struct BackwardRows {
  using A = Accumulator<T>;
  const T *x, *y, *dy;
  T *dx, *dresidual;  // either may be null
  const A *mean, *factor, *offset, *slope;

  template <bool kRelu, bool kStatistics>
  __attribute__((noinline)) void run(int64_t first, int64_t n, int64_t channels) const {
    for (int64_t at = first * channels; at < (first + n) * channels; at += channels)
      for_channels<T>(
          channels, [&](auto get, auto put) __attribute__((always_inline)) {
            Packet<T> d = get(dy + at);
            if constexpr (kRelu) d = formulas::ReluBackward{}(get(y + at), d);
            if (dx) {
              Packet<T> v = d * get(factor);
              if constexpr (kStatistics) v -= get(offset) + (get(x + at) - get(mean)) * get(slope);
              put(dx + at, v);
            }
            if (dresidual) put(dresidual + at, d);
          });
  }
  void run(bool relu, bool statistics, int64_t first, int64_t n, int64_t channels) const {
    if (relu)
      statistics ? run<true, true>(first, n, channels) : run<true, false>(first, n, channels);
    else
      statistics ? run<false, true>(first, n, channels) : run<false, false>(first, n, channels);
  }
};

}  // namespace

void batch_norm_statistics(const CpuContext& ctx, ConstView x, BatchNorm b, View mean, View var,
                           View running_mean, View running_var, View batches) {
  if (batches) *batches.as<int64_t>() += b.groups;
  for_float(x.dtype, "batch_norm_statistics", [&]<class T>() {
    using A = Accumulator<T>;
    const Grid grid(x, b.groups, kParts);
    const int64_t width = grid.channels;
    const Scratch scratch(grid.groups * grid.chunks * 2 * width * int64_t{sizeof(A)});
    A* parts = scratch.as<A>();
    grid.each(ctx, [&](int64_t, int64_t first, int64_t n, int64_t chunk) {
      A* part = parts + 2 * chunk * width;
      moments_of_rows(x.as<T>() + first * width, n, width, part, part + width);
    });
    for (int64_t g = 0; g < grid.groups; ++g) {
      A *center = mean.as<A>() + g * width, *spread = var.as<A>() + g * width;
      combine_moments(grid, parts + 2 * g * grid.chunks * width, center, spread);
      if (running_mean)
        follow(grid, b.momentum, center, spread, running_mean.as<A>(), running_var.as<A>());
    }
  });
}

void batch_norm_apply(const CpuContext& ctx, ConstView x, ConstView mean, ConstView var,
                      ConstView gamma, ConstView beta, ConstView residual, BatchNorm b, View y) {
  for_float(x.dtype, "batch_norm_apply", [&]<class T>() {
    using A = Accumulator<T>;
    const Grid grid(x, b.groups, x.rows() + 1);
    const int64_t width = grid.channels;
    const Scratch scratch(grid.groups * width * int64_t{sizeof(A)});
    A* scale = scratch.as<A>();  // [groups, width]
    for (int64_t g = 0; g < grid.groups; ++g)
      scales_of(var.as<A>() + g * width, gamma.as<A>(), b.eps, width, scale + g * width);
    grid.each(ctx, [&](int64_t g, int64_t first, int64_t n, int64_t) {
      const T* in = x.as<T>() + first * width;
      const A *center = mean.as<A>() + g * width, *factor = scale + g * width;
      T* out = y.as<T>() + first * width;
      if (residual)
        apply_rows<T, true>(in, residual.as<T>() + first * width, n, width, center, factor,
                            beta.as<A>(), b.relu, out);
      else
        apply_rows<T, false>(in, in, n, width, center, factor, beta.as<A>(), b.relu, out);
    });
  });
}

void batch_norm_backward_sums(const CpuContext& ctx, ConstView x, ConstView mean, ConstView var,
                              ConstView y, ConstView dy, BatchNorm b, View sums, View dgamma,
                              View dbeta) {
  for_float(x.dtype, "batch_norm_backward_sums", [&]<class T>() {
    using A = Accumulator<T>;
    const Grid grid(x, b.groups, kParts);
    const int64_t width = grid.channels, groups = grid.groups;
    const Scratch scratch((groups * grid.chunks * 2 + groups) * width * int64_t{sizeof(A)});
    A *parts = scratch.as<A>(), *rstd = parts + groups * grid.chunks * 2 * width;
    for (int64_t g = 0; g < groups; ++g)
      scales_of<A>(var.as<A>() + g * width, nullptr, b.eps, width, rstd + g * width);
    grid.each(ctx, [&](int64_t g, int64_t first, int64_t n, int64_t chunk) {
      A* part = parts + 2 * chunk * width;
      const int64_t at = first * width;
      const A *center = mean.as<A>() + g * width, *scale = rstd + g * width;
      if (b.relu)
        sum_rows_of_gradients<T, true>(x.as<T>() + at, y.as<T>() + at, dy.as<T>() + at, n, width,
                                       center, scale, part, part + width);
      else
        sum_rows_of_gradients<T, false>(x.as<T>() + at, nullptr, dy.as<T>() + at, n, width, center,
                                        scale, part, part + width);
    });
    A* out = sums.as<A>();  // [2, groups, width]
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t which = 0; which < 2; ++which)
        sum_columns(parts + (2 * g * grid.chunks + which) * width, grid.chunks, 2 * width, width,
                    A(1), out + (which * groups + g) * width);
    if (dbeta) sum_columns(out, groups, width, width, A(1), dbeta.as<A>());
    if (dgamma) sum_columns(out + groups * width, groups, width, width, A(1), dgamma.as<A>());
  });
}

void batch_norm_backward(const CpuContext& ctx, ConstView x, ConstView mean, ConstView var,
                         ConstView gamma, ConstView y, ConstView dy, ConstView sums, BatchNorm b,
                         View dx, View dresidual) {
  for_float(dy.dtype, "batch_norm_backward", [&]<class T>() {
    using A = Accumulator<T>;
    const Grid grid(dy, b.groups, dy.rows() + 1);
    const int64_t width = grid.channels, all = grid.groups * width;
    const Scratch scratch(3 * all * int64_t{sizeof(A)});
    A *factor = scratch.as<A>(), *offset = factor + all, *slope = offset + all;
    const A *variance = var.as<A>(), *total = sums ? sums.as<A>() : nullptr;
    const A share = A(1) / static_cast<A>(grid.rows);
    for (int64_t g = 0; g < grid.groups; ++g)
      scales_of(variance + g * width, gamma.as<A>(), b.eps, width, factor + g * width);
    for (int64_t i = 0; total && i < all; ++i) {
      offset[i] = factor[i] * total[i] * share;
      // times the 1 / sqrt(var + eps) of xhat
      slope[i] =
          factor[i] * total[all + i] * share / math::sqrt(variance[i] + static_cast<A>(b.eps));
    }
    grid.each(ctx, [&](int64_t g, int64_t first, int64_t n, int64_t) {
      const int64_t c = g * width;
      const BackwardRows<T> rows{total ? x.as<T>() : nullptr,
                                 b.relu ? y.as<T>() : nullptr,
                                 dy.as<T>(),
                                 dx ? dx.as<T>() : nullptr,
                                 dresidual ? dresidual.as<T>() : nullptr,
                                 mean.as<A>() + c,
                                 factor + c,
                                 offset + c,
                                 slope + c};
      rows.run(b.relu, total != nullptr, first, n, width);
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
