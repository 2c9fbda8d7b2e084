// SPDX-License-Identifier: Apache-2.0
// Moving blocks along axes: what only moves is moved as words, the widest that addresses and
// lengths allow, whatever the element type.
#include "pinion/kernels/cuda/words.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kTile = 32;     // rows and columns of a square that is transposed in shared memory
constexpr int kTileRows = 8;  // of threads
constexpr int kThreads = 256;

// Rows are one word longer than they hold, so that a column lies in 32 banks.
template <class Word>
struct Tile {
  Word v[kTile][kTile + 1];
};

struct Swap {
  int64_t m, b, n, run;  // [.., m, b, n, run] -> [.., n, b, m, run]
};

// Runs of one word: a block takes one square of one of the [m, n] matrices.
template <class Word>
__global__ void __launch_bounds__(kTile* kTileRows)
    transpose(const Word* x, Swap s, int64_t tiles_m, int64_t tiles_n, Word* y) {
  Tile<Word>& tile = block_shared<Tile<Word>>();
  const int64_t matrix = blockIdx.x / (tiles_m * tiles_n), ia = matrix / s.b, ib = matrix % s.b;
  const int64_t i0 = blockIdx.x / tiles_n % tiles_m * kTile, j0 = blockIdx.x % tiles_n * kTile;
  const Word* in = x + (ia * s.m * s.b + ib) * s.n;
  Word* out = y + (ia * s.n * s.b + ib) * s.m;
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const int64_t i = i0 + r, j = j0 + threadIdx.x;
    if (i < s.m && j < s.n) tile.v[r][threadIdx.x] = in[i * s.b * s.n + j];
  }
  __syncthreads();
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const int64_t i = i0 + threadIdx.x, j = j0 + r;
    if (i < s.m && j < s.n) out[j * s.b * s.m + i] = tile.v[threadIdx.x][r];
  }
}

// Longer runs: words in the order of the result.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    move_runs(const Word* x, int64_t words, Swap s, Word* y) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < words; k += stride) {
    const int64_t r = k % s.run, i = k / s.run % s.m, rest = k / (s.run * s.m);
    const int64_t ib = rest % s.b, j = rest / s.b % s.n, ia = rest / (s.b * s.n);
    y[k] = x[(((ia * s.m + i) * s.b + ib) * s.n + j) * s.run + r];
  }
}

// `words` words in blocks: block o from o * from_stride to o * to_stride.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    move_blocks(const Word* x, int64_t from_stride, int64_t block, int64_t words, int64_t to_stride,
                Word* y) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < words; k += stride)
    y[k / block * to_stride + k % block] = x[k / block * from_stride + k % block];
}

// All sizes are bytes.
void copy_blocks(const CudaContext& ctx, const char* from, int64_t from_stride, int64_t block,
                 int64_t count, int64_t to_stride, char* to) {
  if (block * count == 0) return;
  for_widest_word({from, to}, {from_stride, block, to_stride}, [&]<class Word>() {
    constexpr int64_t kBytes = sizeof(Word);
    const int64_t words = block * count / kBytes;
    launch(move_blocks<Word>, {blocks_for(words, kThreads), kThreads}, ctx,
           reinterpret_cast<const Word*>(from), from_stride / kBytes, block / kBytes, words,
           to_stride / kBytes, reinterpret_cast<Word*>(to));
  });
}

}  // namespace

void swap_axes(const CudaContext& ctx, ConstView x, View y) {
  if (x.numel() == 0) return;
  const int64_t a = x.shape[0], bytes = x.shape[4] * size_of(x.dtype);
  Swap s{x.shape[1], x.shape[2], x.shape[3], 1};
  if (s.m == 1) s.m = s.b, s.b = 1;  // [1,b,n] -> [n,b,1] and [m,b,1] -> [1,b,m] are matrices too
  if (s.n == 1) s.n = s.b, s.b = 1;
  for_widest_word({x.data, y.data}, {bytes}, [&]<class Word>() {
    s.run = bytes / static_cast<int64_t>(sizeof(Word));
    const auto* from = static_cast<const Word*>(x.data);
    auto* to = static_cast<Word*>(y.data);
    if (s.run > 1) {
      const int64_t words = a * s.m * s.b * s.n * s.run;
      launch(move_runs<Word>, {blocks_for(words, kThreads), kThreads}, ctx, from, words, s, to);
      return;
    }
    const int64_t tiles_m = (s.m + kTile - 1) / kTile, tiles_n = (s.n + kTile - 1) / kTile;
    launch(transpose<Word>, {one_block_each(a * s.b * tiles_m * tiles_n), dim3(kTile, kTileRows)},
           ctx, from, s, tiles_m, tiles_n, to);
  });
}

void copy_into(const CudaContext& ctx, ConstView x, int64_t at, View y) {
  const int64_t step = x.shape[2] * size_of(x.dtype), block = x.shape[1] * step;
  copy_blocks(ctx, static_cast<const char*>(x.data), block, block, x.shape[0], y.shape[1] * step,
              static_cast<char*>(y.data) + at * step);
}

void copy_from(const CudaContext& ctx, ConstView x, int64_t at, View y) {
  const int64_t step = x.shape[2] * size_of(x.dtype), block = y.shape[1] * step;
  copy_blocks(ctx, static_cast<const char*>(x.data) + at * step, x.shape[1] * step, block,
              y.shape[0], block, static_cast<char*>(y.data));
}

}  // namespace pinion::kernels::cuda
