// SPDX-License-Identifier: Apache-2.0
// The gradients of layer normalisation. Blocks that stay walk through the rows, so that x and dy
// are read once for dx and for the sums over rows; each leaves its sums, and a second kernel adds
// those in the blocks' order.
#include "pinion/kernels/cuda/layer_norm.cuh"
#include "pinion/kernels/cuda/workspace.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kSlices = 16;       // of the blocks whose sums are added
constexpr int kBlocksOfEach = 2;  // at most, that a processor has at once
// Rows that a block of kRowThreads has at work at once, kThreads at each: a warp, or all.
template <int kThreads>
constexpr int kGroups = kRowThreads / kThreads;

// Sums of a row's columns, to each of which one thread adds. A tile of packs has a line for each
// element of a pack, so that neither lanes of neighbouring packs nor lanes of neighbouring columns
// meet in a bank.
template <class A, int N>
struct ColumnSums {
  static constexpr int kLine = kWarp + (N > 1 ? kWarp / N : 0);
  using Element = A;
  struct Values {
    A v[N];
  };
  A* p;

  static PINION_HD int64_t size(int64_t n) {
    return N == 1 ? n : (n / N + kWarp - 1) / kWarp * N * kLine;
  }
  // That of column i + j is kLine j further on.
  __device__ __forceinline__ A* pack(int64_t i) const {
    const uint64_t k = static_cast<uint64_t>(i) / N;
    return p + k / kWarp * N * kLine + k % kWarp;
  }
  template <int M>
  __device__ __forceinline__ Values load(int64_t i) const {
    Values values;
#pragma unroll
    for (int j = 0; j < N; ++j) values.v[j] = pack(i)[kLine * j];
    return values;
  }
  template <int M>
  __device__ __forceinline__ void store(int64_t i, const Values& values) const {
#pragma unroll
    for (int j = 0; j < N; ++j) pack(i)[kLine * j] = values.v[j];
  }
};

// A row where it can be read: in device memory, or staged.
template <class T>
struct RowAt {
  const T *x, *dy, *gamma;
};

// Shared memory for rows: gamma, and for each group of threads two rows of x and dy, the one at
// work and the next, which is on its way. A thread copies what it reads itself, and waits for
// nobody else.
template <class T, int N, int kThreads>
struct Stage {
  const Norm<T>& norm;
  int64_t rows;
  T *gamma, *own;

  __device__ __forceinline__ Stage(const Norm<T>& of, int64_t count, void* shared)
      : norm(of),
        rows(count),
        gamma(static_cast<T*>(shared)),
        own(gamma + (1 + 4 * int64_t{threadIdx.y}) * of.n) {}
  static int64_t bytes(int64_t n) {
    return (1 + 4 * kGroups<kThreads>)*n * static_cast<int64_t>(sizeof(T));
  }
  // Asks for row r.
  __device__ __forceinline__ void ask(int64_t r, int turn) const {
    T* const x = own + turn * 2 * norm.n;
    if (r < rows)
      for (int64_t i = int64_t{threadIdx.x} * N; i < norm.n; i += kThreads * N) {
        copy_async16(x + i, norm.x + r * norm.n + i);
        copy_async16(x + norm.n + i, norm.dy + r * norm.n + i);
      }
    commit_async();
  }
  __device__ __forceinline__ void begin(int64_t r) const {
    ask(r, 0);
    if (threadIdx.y == 0)
      over_row<N, kThreads>(
          norm.n, [](const T& from, T& to) { to = from; }, Read<T>{norm.gamma}, Write<T>{gamma});
  }
  // The row that was asked for last, once it is there.
  __device__ __forceinline__ RowAt<T> take(int64_t next, int turn) const {
    ask(next, turn ^ 1);
    wait_async<1>();
    const T* const x = own + turn * 2 * norm.n;
    return {x, x + norm.n, gamma};
  }
};

// Row r with all that is asked for; its share of dgamma and dbeta joins the sums.
template <int N, int kThreads, class T, class A, class Sums>
__device__ __forceinline__ void row_backward(const Norm<T>& norm, const Residual<T>& residual,
                                             int64_t r, const RowAt<T>& at_row, A center, A spread,
                                             const Sums& dgamma, const Sums& dbeta) {
  const int64_t row = r * norm.n, n = norm.n;
  const A factor = norm.factor(spread);
  const Read<T> x{at_row.x}, dy{at_row.dy}, gamma{at_row.gamma};
  const ReadIf<T> own_gamma{at(norm.delta_gamma, row)};
  A sum_g = 0, sum_gx = 0;
  over_row<N, kThreads>(
      n,
      [&](const T& v, const T& d, const T& shared, const T& own, T& down, A& sum, A& plain) {
        const A g = static_cast<A>(d) * norm.scale(shared, own);
        const A xhat = (static_cast<A>(v) - center) * factor;
        const A slope = static_cast<A>(d) * xhat;
        sum_g += g;
        sum_gx += g * xhat;
        down = T(slope);
        sum += slope;
        plain += static_cast<A>(d);
      },
      x, dy, gamma, own_gamma, WriteIf<T>{at(norm.ddelta_gamma, row)}, dgamma, dbeta);
  if (!norm.dx) return;  // in all threads
  const A mean_g = block_sum<kThreads>(sum_g) / static_cast<A>(n);
  const A mean_gx = block_sum<kThreads>(sum_gx) * norm.share(spread);
  over_row<N, kThreads>(
      n,
      [&](const T& v, const T& d, const T& shared, const T& own, const T& dsum, bool kept,
          T& result, T& dbranch) {
        const A g = static_cast<A>(d) * norm.scale(shared, own);
        const A xhat = (static_cast<A>(v) - center) * factor;
        result = T((g - mean_g - xhat * mean_gx) * factor);
        if (residual.dsum) result = T(static_cast<A>(dsum) + static_cast<A>(result));
        dbranch = residual.dropped(result, kept);
      },
      x, dy, gamma, own_gamma, ReadIf<T>{at(residual.dsum, row)}, residual.kept(row),
      Write<T>{norm.dx + row}, WriteIf<T>{at(residual.dbranch, row)});
}

// What a block has room for in shared memory: its sums, and rows. What is not there is read and
// written where it is.
struct Room {
  bool for_sums, for_rows;
};

// Rows in turn, one to each group of kThreads; slabs[b] = [2,n], the sums of block b.
template <class T, int N, int kThreads>
__global__ void __launch_bounds__(kRowThreads, kBlocksOfEach)
    normalise_backward(Norm<T> norm, Residual<T> residual, int64_t rows, Room room,
                       Accumulator<T>* slabs) {
  using A = Accumulator<T>;
  using Sums = ColumnSums<A, N>;
  const int64_t n = norm.n, size = Sums::size(n), step = int64_t{gridDim.x} * kGroups<kThreads>;
  A* const slab = slabs + int64_t{blockIdx.x} * 2 * n;
  A* const all = room.for_sums ? dynamic_shared<A>() : slab;
  A* const own = all + threadIdx.y * 2 * size;
  const Sums dgamma{own}, dbeta{own + size};
  const Stage<T, N, kThreads> stage(norm, rows, all + kGroups<kThreads> * 2 * size);
  int64_t r = int64_t{blockIdx.x} * kGroups<kThreads> + threadIdx.y;
  for (int64_t k = threadIdx.x; k < 2 * size; k += kThreads) own[k] = 0;
  const bool staged = N > 1 && room.for_rows;
  if (staged) stage.begin(r);
  __syncthreads();  // all of it is there
  A next_mean = r < rows ? norm.mean[r] : A(0), next_spread = r < rows ? norm.spread[r] : A(0);
  for (int turn = 0; r < rows; r += step, turn ^= 1) {
    const A mean = next_mean, spread = next_spread;
    RowAt<T> row{norm.x + r * n, norm.dy + r * n, norm.gamma};
    if (staged) row = stage.take(r + step, turn);
    if (r + step < rows) next_mean = norm.mean[r + step], next_spread = norm.spread[r + step];
    row_backward<N, kThreads>(norm, residual, r, row, mean, spread, dgamma, dbeta);
  }
  if (!room.for_sums) return;
  __syncthreads();  // the groups have added
  for (int64_t c = threadIdx.y * kThreads + threadIdx.x; c < n; c += kRowThreads)
    for (int which = 0; which < 2; ++which) {
      A total = 0;
      for (int g = 0; g < kGroups<kThreads>; ++g)
        total += Sums{all + (2 * g + which) * size}.pack(c)[Sums::kLine * (c % N)];
      slab[which * n + c] = total;
    }
}

template <class A>
struct SliceSums {
  A v[kSlices][kWarp];
};

// The sums of all blocks; dgamma and dbeta may be null.
template <class T>
__global__ void __launch_bounds__(kWarp* kSlices)
    add_slabs(const Accumulator<T>* slabs, int64_t count, int64_t n, T* dgamma, T* dbeta) {
  using A = Accumulator<T>;
  const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  SliceSums<A>& sums = block_shared<SliceSums<A>>();
  A sum = 0;
  for (int64_t s = threadIdx.y; c < 2 * n && s < count; s += kSlices) sum += slabs[s * 2 * n + c];
  sums.v[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  T* const to = c < n ? dgamma : dbeta;
  if (threadIdx.y != 0 || c >= 2 * n || !to) return;  // no barrier follows
  for (int s = 1; s < kSlices; ++s) sum += sums.v[s][threadIdx.x];
  to[c < n ? c : c - n] = T(sum);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T, int N, int kThreads>
void walk_backward(const CudaContext& ctx, const Norm<T>& norm, const Residual<T>& residual,
                   int64_t rows, T* dgamma, T* dbeta) {
  using A = Accumulator<T>;
  using Sums = ColumnSums<A, N>;
  constexpr int64_t kMost = 226 << 10;  // bytes of shared memory, less what block_sum takes
  constexpr int64_t kElsewhere = 98 << 10;
  constexpr int64_t kProcessors = 132;  // of an H100
  const int64_t n = norm.n, size = static_cast<int64_t>(sizeof(A));
  const int64_t most = ctx.capability == 90 ? kMost : kElsewhere;
  const int64_t for_sums = kGroups<kThreads> * 2 * Sums::size(n) * size;
  const int64_t both = for_sums + (N > 1 ? Stage<T, N, kThreads>::bytes(n) : 0);
  const Room room{for_sums <= most, N > 1 && both <= most};
  if constexpr (N > 1)
    if (!room.for_sums)
      return walk_backward<T, 1, kThreads>(ctx, norm, residual, rows, dgamma, dbeta);
  // By the shape alone: the number of blocks is the order of the sums.
  const int64_t most_blocks = kProcessors * std::clamp<int64_t>(kMost / both, 1, kBlocksOfEach);
  const int64_t blocks = std::min(ceil_div(rows, kGroups<kThreads>), most_blocks);
  const Scratch slabs(ctx, blocks * 2 * n * size);
  const int64_t bytes = room.for_rows ? both : room.for_sums ? for_sums : 0;
  if (blocks > 0)
    launch(normalise_backward<T, N, kThreads>,
           {one_block_each(blocks), dim3(kThreads, kGroups<kThreads>), static_cast<size_t>(bytes)},
           ctx, norm, residual, rows, room, slabs.as<A>());
  if (dgamma || dbeta)
    launch(add_slabs<T>, {one_block_each(ceil_div(2 * n, kWarp)), dim3(kWarp, kSlices)}, ctx,
           slabs.as<A>(), blocks, n, dgamma, dbeta);
}

}  // namespace

void layer_norm_backward(const CudaContext& ctx, LayerNormArgs args) {
  const int64_t n = args.x.cols(), rows = args.x.rows();
  if (n == 0) return;
  for_float(args.x.dtype, "layer_norm_backward", [&]<class T>() {
    const Norm<T> v(args);
    const Residual<T> r(args.residual);
    T* const dgamma = args.dgamma ? args.dgamma.as<T>() : nullptr;
    T* const dbeta = args.dbeta ? args.dbeta.as<T>() : nullptr;
    const auto run = [&]<int N>() {
      is_short_row<N>(n) ? walk_backward<T, N, kWarp>(ctx, v, r, rows, dgamma, dbeta)
                         : walk_backward<T, N, kRowThreads>(ctx, v, r, rows, dgamma, dbeta);
    };
    for_row_packs<T>(n, run, v.x, v.gamma, v.delta_gamma, v.dy, v.dx, v.ddelta_gamma, r.dsum,
                     r.dbranch);
  });
}

}  // namespace pinion::kernels::cuda
