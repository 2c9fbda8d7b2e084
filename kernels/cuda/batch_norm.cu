// SPDX-License-Identifier: Apache-2.0
// Batch normalisation of [N,H,W,C] images (Ioffe & Szegedy 2015). Reductions take two launches: one
// value per channel from each of many blocks of rows, then their combination in the order of
// blocks. Moments go by Welford's update ("Note on a method for calculating corrected sums of
// squares and products", 1962) and are combined as Chan, Golub & LeVeque do (1979).
#include <algorithm>

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSlices = 16;  // of the row blocks of one channel, when they are combined
constexpr int64_t kBlocks =
    1056;                        // of a reduction: 8 on each of the 132 multiprocessors of an H100
constexpr int64_t kParts = 256;  // row blocks of a channel, at most

// Pixels as rows of channels, `rows` of them in each group. A block has `width` packs of adjacent
// channels, and as many rows at a time as it has threads for.
struct Grid {
  int64_t groups, rows, channels;
  int width;  // a power of two
  int64_t channel_blocks, row_blocks;
  unsigned blocks() const { return one_block_each(channel_blocks * row_blocks * groups); }
};

template <int N>
Grid grid_over(const ConstView& x, int64_t groups, int64_t most_row_blocks, int64_t rows_a_thread) {
  Grid g{groups, x.rows() / groups, x.cols(), 1, 0, 0};
  const int64_t packs = g.channels / N;
  while (g.width < kWarp && g.width < packs) g.width *= 2;
  g.channel_blocks = (packs + g.width - 1) / g.width;
  const int64_t rows_a_block = kThreads / g.width * rows_a_thread;
  g.row_blocks = std::min({most_row_blocks, (g.rows + rows_a_block - 1) / rows_a_block,
                           std::max<int64_t>(1, kBlocks / (g.channel_blocks * groups))});
  return g;
}

// Where a thread stands.
struct Place {
  int64_t group, row_block, c;  // the first of its channels
  int slice, slices;
};
template <int N>
__device__ __forceinline__ Place place_in(const Grid& g) {
  const int64_t column = blockIdx.x % g.channel_blocks, rest = blockIdx.x / g.channel_blocks;
  const int lane = static_cast<int>(threadIdx.x) % g.width;
  return {rest / g.row_blocks, rest % g.row_blocks, (column * g.width + lane) * N,
          static_cast<int>(threadIdx.x) / g.width, kThreads / g.width};
}

// Adjacent rows of a row block: their first, and their number, of a grid's group.
__device__ __forceinline__ Range rows_of(const Grid& g, int64_t row_block) {
  const int64_t each = (g.rows + g.row_blocks - 1) / g.row_blocks, begin = row_block * each;
  return {begin < g.rows ? begin : g.rows, begin + each < g.rows ? begin + each : g.rows};
}
__device__ __forceinline__ int64_t count_of(Range rows, int slice, int slices) {
  const int64_t n = rows.end - rows.begin - slice;
  return n > 0 ? (n + slices - 1) / slices : 0;
}

template <class A>
struct Moments {
  A count, mean, m2;
};
template <class A>
__device__ __forceinline__ Moments<A> combined(const Moments<A>& a, const Moments<A>& b) {
  if (b.count == 0) return a;
  const A n = a.count + b.count, d = b.mean - a.mean;
  return {n, a.mean + d * (b.count / n), a.m2 + b.m2 + d * d * (a.count * b.count / n)};
}

// Two values for each thread and channel.
template <class A, int N>
struct PairsOfBlock {
  A first[kThreads * N], second[kThreads * N];
};
template <class A>
struct SlicesOfParts {
  A count[kSlices][kWarp], first[kSlices][kWarp], second[kSlices][kWarp];
};

// parts[g,p,0,c] and [g,p,1,c]: mean and sum of squares about it, of the rows of row block p.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    moments_of_rows(const T* x, Grid grid, Accumulator<T>* parts) {
  using A = Accumulator<T>;
  const Place at = place_in<N>(grid);
  const Range rows = rows_of(grid, at.row_block);
  const bool inside = at.c < grid.channels;
  const T* from = x + at.group * grid.rows * grid.channels + at.c;
  A mean[N] = {}, m2[N] = {}, count = 0;
  for (int64_t r = rows.begin + at.slice; inside && r < rows.end; r += at.slices) {
    const Pack<T, N> pack = load_pack<N>(from + r * grid.channels);
    const A share = A(1) / (count += 1);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const A v = pack.v[j], d = v - mean[j];
      mean[j] += d * share;
      m2[j] += d * (v - mean[j]);
    }
  }
  PairsOfBlock<A, N>& pairs = block_shared<PairsOfBlock<A, N>>();
#pragma unroll
  for (int j = 0; j < N; ++j) {
    pairs.first[threadIdx.x * N + j] = mean[j];
    pairs.second[threadIdx.x * N + j] = m2[j];
  }
  __syncthreads();
  if (at.slice != 0 || !inside) return;  // no barrier follows
  A* out = parts + (at.group * grid.row_blocks + at.row_block) * 2 * grid.channels + at.c;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    Moments<A> all{count, mean[j], m2[j]};
    for (int s = 1; s < at.slices; ++s) {
      const int from_thread = (s * grid.width + static_cast<int>(threadIdx.x)) * N + j;
      all = combined(all, {static_cast<A>(count_of(rows, s, at.slices)), pairs.first[from_thread],
                           pairs.second[from_thread]});
    }
    out[j] = all.mean;
    out[grid.channels + j] = all.m2;
  }
}

// The moments of row blocks to mean[g,c] and var[g,c]; the others may be null.
template <class A>
__global__ void __launch_bounds__(kWarp* kSlices)
    finish_statistics(const A* parts, Grid grid, A momentum, A* mean, A* var, A* running_mean,
                      A* running_var, int64_t* batches) {
  if (batches && blockIdx.x + threadIdx.x + threadIdx.y == 0) *batches += grid.groups;
  const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const bool inside = c < grid.channels;
  SlicesOfParts<A>& slices = block_shared<SlicesOfParts<A>>();
  for (int64_t g = 0; g < grid.groups; ++g) {
    Moments<A> own{0, 0, 0};
    for (int64_t p = threadIdx.y; inside && p < grid.row_blocks; p += kSlices) {
      const Range rows = rows_of(grid, p);
      const A* part = parts + (g * grid.row_blocks + p) * 2 * grid.channels + c;
      own = combined(own, {static_cast<A>(rows.end - rows.begin), part[0], part[grid.channels]});
    }
    slices.count[threadIdx.y][threadIdx.x] = own.count;
    slices.first[threadIdx.y][threadIdx.x] = own.mean;
    slices.second[threadIdx.y][threadIdx.x] = own.m2;
    __syncthreads();
    if (threadIdx.y == 0 && inside) {
      for (int s = 1; s < kSlices; ++s)
        own = combined(own, {slices.count[s][threadIdx.x], slices.first[s][threadIdx.x],
                             slices.second[s][threadIdx.x]});
      mean[g * grid.channels + c] = own.mean;
      var[g * grid.channels + c] = own.m2 / own.count;
      if (running_mean) {
        running_mean[c] += momentum * (own.mean - running_mean[c]);
        running_var[c] += momentum * (own.m2 / (own.count - 1) - running_var[c]);
      }
    }
    __syncthreads();  // the slices have been read
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    normalise(const T* x, const T* residual, Grid grid, const Accumulator<T>* mean,
              const Accumulator<T>* var, const Accumulator<T>* gamma, const Accumulator<T>* beta,
              Accumulator<T> eps, bool relu, T* y) {
  using A = Accumulator<T>;
  const Place at = place_in<N>(grid);
  if (at.c >= grid.channels) return;
  A center[N], scale[N], shift[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const int64_t c = at.c + j, of_group = at.group * grid.channels + c;
    center[j] = mean[of_group];
    scale[j] = gamma[c] / math::sqrt(var[of_group] + eps);
    shift[j] = beta[c];
  }
  for (int64_t r = at.row_block * at.slices + at.slice; r < grid.rows;
       r += grid.row_blocks * at.slices) {
    const int64_t i = (at.group * grid.rows + r) * grid.channels + at.c;
    const Pack<T, N> in = load_pack<N>(x + i);
    const Pack<T, N> more = residual ? load_pack<N>(residual + i) : Pack<T, N>{};
    Pack<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      A v = (static_cast<A>(in.v[j]) - center[j]) * scale[j] + shift[j];
      if (residual) v += static_cast<A>(more.v[j]);
      out.v[j] = T(relu ? formulas::Relu{}(v) : v);
    }
    store_pack<N>(y + i, out);
  }
}

// d: dy where the result passed the ReLU; y is null where there was none.
template <class T, int N>
__device__ __forceinline__ void load_gradient(const T* y, const T* dy, int64_t i,
                                              Accumulator<T> (&d)[N]) {
  const Pack<T, N> pack = load_pack<N>(dy + i);
  const Pack<T, N> result = y ? load_pack<N>(y + i) : Pack<T, N>{};
#pragma unroll
  for (int j = 0; j < N; ++j) {
    d[j] = pack.v[j];
    if (y) d[j] = formulas::ReluBackward{}(static_cast<Accumulator<T>>(result.v[j]), d[j]);
  }
}

// parts[g,p,0,c] and [g,p,1,c]: sums of d and of d xhat over the rows of row block p.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    sums_of_rows(const T* x, const T* y, const T* dy, Grid grid, const Accumulator<T>* mean,
                 const Accumulator<T>* var, Accumulator<T> eps, Accumulator<T>* parts) {
  using A = Accumulator<T>;
  const Place at = place_in<N>(grid);
  const Range rows = rows_of(grid, at.row_block);
  const bool inside = at.c < grid.channels;
  A center[N] = {}, rstd[N] = {}, sum[N] = {}, sum_x[N] = {}, d[N];
#pragma unroll
  for (int j = 0; inside && j < N; ++j) {
    center[j] = mean[at.group * grid.channels + at.c + j];
    rstd[j] = A(1) / math::sqrt(var[at.group * grid.channels + at.c + j] + eps);
  }
  for (int64_t r = rows.begin + at.slice; inside && r < rows.end; r += at.slices) {
    const int64_t i = (at.group * grid.rows + r) * grid.channels + at.c;
    const Pack<T, N> in = load_pack<N>(x + i);
    load_gradient(y, dy, i, d);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      sum[j] += d[j];
      sum_x[j] += d[j] * ((static_cast<A>(in.v[j]) - center[j]) * rstd[j]);
    }
  }
  PairsOfBlock<A, N>& pairs = block_shared<PairsOfBlock<A, N>>();
#pragma unroll
  for (int j = 0; j < N; ++j) {
    pairs.first[threadIdx.x * N + j] = sum[j];
    pairs.second[threadIdx.x * N + j] = sum_x[j];
  }
  __syncthreads();
  if (at.slice != 0 || !inside) return;  // no barrier follows
  A* out = parts + (at.group * grid.row_blocks + at.row_block) * 2 * grid.channels + at.c;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    for (int s = 1; s < at.slices; ++s) {
      const int from_thread = (s * grid.width + static_cast<int>(threadIdx.x)) * N + j;
      sum[j] += pairs.first[from_thread];
      sum_x[j] += pairs.second[from_thread];
    }
    out[j] = sum[j];
    out[grid.channels + j] = sum_x[j];
  }
}

// The sums of row blocks to sums[2,g,c]; dgamma and dbeta may be null.
template <class A>
__global__ void __launch_bounds__(kWarp* kSlices)
    finish_sums(const A* parts, Grid grid, A* sums, A* dgamma, A* dbeta) {
  const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const bool inside = c < grid.channels;
  SlicesOfParts<A>& slices = block_shared<SlicesOfParts<A>>();
  A gamma = 0, beta = 0;
  for (int64_t g = 0; g < grid.groups; ++g) {
    A sum = 0, sum_x = 0;
    for (int64_t p = threadIdx.y; inside && p < grid.row_blocks; p += kSlices) {
      const A* part = parts + (g * grid.row_blocks + p) * 2 * grid.channels + c;
      sum += part[0];
      sum_x += part[grid.channels];
    }
    slices.first[threadIdx.y][threadIdx.x] = sum;
    slices.second[threadIdx.y][threadIdx.x] = sum_x;
    __syncthreads();
    if (threadIdx.y == 0 && inside) {
      for (int s = 1; s < kSlices; ++s) {
        sum += slices.first[s][threadIdx.x];
        sum_x += slices.second[s][threadIdx.x];
      }
      sums[g * grid.channels + c] = sum;
      sums[(grid.groups + g) * grid.channels + c] = sum_x;
      beta += sum;
      gamma += sum_x;
    }
    __syncthreads();  // the slices have been read
  }
  if (threadIdx.y != 0 || !inside) return;
  if (dgamma) dgamma[c] = gamma;
  if (dbeta) dbeta[c] = beta;
}

// dx = factor d - offset - slope (x - mean); dx or dresidual may be null, and so may sums.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    normalise_backward(const T* x, const T* y, const T* dy, Grid grid, const Accumulator<T>* mean,
                       const Accumulator<T>* var, const Accumulator<T>* gamma,
                       const Accumulator<T>* sums, Accumulator<T> eps, T* dx, T* dresidual) {
  using A = Accumulator<T>;
  const Place at = place_in<N>(grid);
  if (at.c >= grid.channels) return;
  const A share = A(1) / static_cast<A>(grid.rows);
  A center[N] = {}, factor[N], offset[N] = {}, slope[N] = {}, d[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const int64_t c = at.group * grid.channels + at.c + j;
    const A rstd = A(1) / math::sqrt(var[c] + eps);
    factor[j] = gamma[at.c + j] * rstd;
    if (!sums) continue;
    center[j] = mean[c];
    offset[j] = factor[j] * sums[c] * share;
    slope[j] = factor[j] * sums[grid.groups * grid.channels + c] * share * rstd;
  }
  for (int64_t r = at.row_block * at.slices + at.slice; r < grid.rows;
       r += grid.row_blocks * at.slices) {
    const int64_t i = (at.group * grid.rows + r) * grid.channels + at.c;
    load_gradient(y, dy, i, d);
    if (dx) {
      const Pack<T, N> in = sums ? load_pack<N>(x + i) : Pack<T, N>{};
      Pack<T, N> out;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        A v = factor[j] * d[j];
        if (sums) v -= offset[j] + (static_cast<A>(in.v[j]) - center[j]) * slope[j];
        out.v[j] = T(v);
      }
      store_pack<N>(dx + i, out);
    }
    if (!dresidual) continue;
    Pack<T, N> out;
#pragma unroll
    for (int j = 0; j < N; ++j) out.v[j] = T(d[j]);
    store_pack<N>(dresidual + i, out);
  }
}

// Calls f.template operator()<T, N>(): N channels make 16 bytes where all rows start on such a
// boundary, else N is 1. Empty views are fine.
template <class F>
void for_packs(const char* who, const ConstView& like, std::initializer_list<ConstView> views,
               F f) {
  for_float(like.dtype, who, [&]<class T>() {
    constexpr int N = 16 / static_cast<int>(sizeof(T));
    bool together = like.cols() % N == 0;
    for (const ConstView& v : views) together &= reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
    together ? f.template operator()<T, N>() : f.template operator()<T, 1>();
  });
}

template <class T, class Void>
auto* data_or_null(const BasicView<Void>& v) {
  return v ? v.template as<T>() : nullptr;
}

unsigned channel_blocks(int64_t channels) { return one_block_each((channels + kWarp - 1) / kWarp); }

}  // namespace

void batch_norm_statistics(const CudaContext& ctx, ConstView x, BatchNorm b, View mean, View var,
                           View running_mean, View running_var, View batches) {
  if (x.numel() == 0) return;
  for_packs("batch_norm_statistics", x, {x}, [&]<class T, int N>() {
    using A = Accumulator<T>;
    const Grid grid = grid_over<N>(x, b.groups, kParts, 8);
    const Scratch parts(ctx,
                        grid.groups * grid.row_blocks * 2 * grid.channels * int64_t{sizeof(A)});
    launch(moments_of_rows<T, N>, {grid.blocks(), kThreads}, ctx, x.as<T>(), grid, parts.as<A>());
    launch(finish_statistics<A>, {channel_blocks(grid.channels), dim3(kWarp, kSlices)}, ctx,
           parts.as<A>(), grid, static_cast<A>(b.momentum), mean.as<A>(), var.as<A>(),
           data_or_null<A>(running_mean), data_or_null<A>(running_var),
           data_or_null<int64_t>(batches));
  });
}

void batch_norm_apply(const CudaContext& ctx, ConstView x, ConstView mean, ConstView var,
                      ConstView gamma, ConstView beta, ConstView residual, BatchNorm b, View y) {
  if (x.numel() == 0) return;
  for_packs("batch_norm_apply", x, {x, residual, y}, [&]<class T, int N>() {
    using A = Accumulator<T>;
    const Grid grid = grid_over<N>(x, b.groups, x.rows(), 4);
    launch(normalise<T, N>, {grid.blocks(), kThreads}, ctx, x.as<T>(), data_or_null<T>(residual),
           grid, mean.as<A>(), var.as<A>(), gamma.as<A>(), beta.as<A>(), static_cast<A>(b.eps),
           b.relu, y.as<T>());
  });
}

void batch_norm_backward_sums(const CudaContext& ctx, ConstView x, ConstView mean, ConstView var,
                              ConstView y, ConstView dy, BatchNorm b, View sums, View dgamma,
                              View dbeta) {
  if (x.cols() == 0) return;
  for_packs("batch_norm_backward_sums", x, {x, y, dy}, [&]<class T, int N>() {
    using A = Accumulator<T>;
    const Grid grid = grid_over<N>(x, b.groups, kParts, 8);
    const Scratch parts(ctx,
                        grid.groups * grid.row_blocks * 2 * grid.channels * int64_t{sizeof(A)});
    if (grid.rows > 0)
      launch(sums_of_rows<T, N>, {grid.blocks(), kThreads}, ctx, x.as<T>(),
             b.relu ? y.as<T>() : nullptr, dy.as<T>(), grid, mean.as<A>(), var.as<A>(),
             static_cast<A>(b.eps), parts.as<A>());
    launch(finish_sums<A>, {channel_blocks(grid.channels), dim3(kWarp, kSlices)}, ctx,
           parts.as<A>(), grid, sums.as<A>(), data_or_null<A>(dgamma), data_or_null<A>(dbeta));
  });
}

void batch_norm_backward(const CudaContext& ctx, ConstView x, ConstView mean, ConstView var,
                         ConstView gamma, ConstView y, ConstView dy, ConstView sums, BatchNorm b,
                         View dx, View dresidual) {
  if (dy.numel() == 0) return;
  for_packs("batch_norm_backward", dy, {x, y, dy, dx, dresidual}, [&]<class T, int N>() {
    using A = Accumulator<T>;
    const Grid grid = grid_over<N>(dy, b.groups, dy.rows(), 4);
    launch(normalise_backward<T, N>, {grid.blocks(), kThreads}, ctx, data_or_null<T>(x),
           b.relu ? y.as<T>() : nullptr, dy.as<T>(), grid, mean.as<A>(), var.as<A>(), gamma.as<A>(),
           data_or_null<A>(sums), static_cast<A>(b.eps), data_or_null<T>(dx),
           data_or_null<T>(dresidual));
  });
}

}  // namespace pinion::kernels::cuda
