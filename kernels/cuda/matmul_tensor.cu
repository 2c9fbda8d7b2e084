// SPDX-License-Identifier: Apache-2.0
// Matrix products of 16-bit operands on tensor cores: tiles of both come to shared memory by
// asynchronous copies, kStages ahead, and are multiplied as they lie, transposed or not.
#include "pinion/kernels/cuda/matmul.cuh"
#include "pinion/kernels/cuda/mma.cuh"

namespace pinion::kernels::cuda {
namespace {

constexpr int kTile = 128;  // rows and columns of the result that a block computes
constexpr int kDepth = 32;
constexpr int kStages = 3;
constexpr int kThreads = 256;
constexpr int kWarpRows = 64, kWarpColumns = 32;  // of the tile: two warps down, four across
constexpr int kChunk = 8;                         // elements of one copy
constexpr int kSkew = 8;  // elements that keep eight rows of a matrix in different banks

// A tile of an operand as it lies in memory: `lines` of `length` elements, each line contiguous.
template <bool kAlongDepth>
struct TileShape {
  static constexpr int kLines = kAlongDepth ? kTile : kDepth;
  static constexpr int kLength = kAlongDepth ? kDepth : kTile;
  static constexpr int kStride = kLength + kSkew;
  static constexpr int kElements = kLines * kStride;
};

// Starts the copy of lines from `line` on, elements from `at` on; 0 beyond the extents.
template <bool kAlongDepth, class T>
__device__ __forceinline__ void copy_tile(const T* from, int64_t stride, int64_t line, int64_t at,
                                          int64_t lines, int64_t length, T* to) {
  using Shape = TileShape<kAlongDepth>;
  constexpr int kChunks = Shape::kLength / kChunk;
  for (int c = static_cast<int>(threadIdx.x); c < Shape::kLines * kChunks; c += kThreads) {
    // Eight lanes are served together: of the lines of four chunks, those four apart share no bank.
    const int short_line = c / 32 * 8 + c % 8 / 4 * 4 + c / 8 % 4;
    const int l = kChunks == 4 ? short_line : c / kChunks, e = c % kChunks * kChunk;
    const bool there = line + l < lines && at + e < length;
    copy_async16(to + l * Shape::kStride + e, there ? from + (line + l) * stride + at + e : from,
                 there);
  }
}

// a is [m, k] or, kDownA, its transpose; b is [k, n] or, kDownB, its transpose [n, k].
template <class T, class Out, bool kDownA, bool kDownB>
__global__ void __launch_bounds__(kThreads)
    multiply(ProductShape shape, int64_t tiles_n, int64_t tiles, Operand<T> a, Operand<T> b,
             Result<Out> out) {
  using ShapeA = TileShape<!kDownA>;
  using ShapeB = TileShape<kDownB>;
  T* const shared = dynamic_shared<T>();
  const auto [batch, m, n, k] = shape;
  const int64_t matrix = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t i0 = tile / tiles_n * kTile, j0 = tile % tiles_n * kTile;
  const T *from_a = a.data + matrix * a.batch, *from_b = b.data + matrix * b.batch;
  const int64_t stride_a = kDownA ? a.column : a.row, stride_b = kDownB ? b.column : b.row;

  const auto tile_a = [&](int64_t step) {
    return shared + step % kStages * (ShapeA::kElements + ShapeB::kElements);
  };
  const int64_t steps = (k + kDepth - 1) / kDepth;
  const auto copy_step = [&](int64_t step) {
    const int64_t p = step * kDepth;
    T *to_a = tile_a(step), *to_b = to_a + ShapeA::kElements;
    if (step < steps) {
      if constexpr (kDownA)
        copy_tile<false>(from_a, stride_a, p, i0, k, m, to_a);
      else
        copy_tile<true>(from_a, stride_a, i0, p, m, k, to_a);
      if constexpr (kDownB)
        copy_tile<true>(from_b, stride_b, j0, p, n, k, to_b);
      else
        copy_tile<false>(from_b, stride_b, p, j0, k, n, to_b);
    }
    commit_async();  // an empty one too, so that the number under way tells the step
  };

  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int wi = warp / 4 * kWarpRows, wj = warp % 4 * kWarpColumns;
  FragmentC sum[kWarpRows / 16][kWarpColumns / 8] = {};
  for (int s = 0; s + 1 < kStages; ++s) copy_step(s);
  for (int64_t step = 0; step < steps; ++step) {
    wait_async<kStages - 2>();
    __syncthreads();  // the tiles of this step are there, those of the step before are read
    copy_step(step + kStages - 1);
    const T *ta = tile_a(step), *tb = ta + ShapeA::kElements;
#pragma unroll
    for (int p = 0; p < kDepth; p += 16) {
      PairB right[kWarpColumns / 16];
#pragma unroll
      for (int c = 0; c < kWarpColumns / 16; ++c)
        right[c] = fragments_b<kDownB>(tb, ShapeB::kStride, p, wj + c * 16);
#pragma unroll
      for (int r = 0; r < kWarpRows / 16; ++r) {
        const FragmentA left = fragment_a<kDownA>(ta, ShapeA::kStride, wi + r * 16, p);
#pragma unroll
        for (int c = 0; c < kWarpColumns / 16; ++c) {
          multiply_add<T>(sum[r][2 * c], left, right[c].left);
          multiply_add<T>(sum[r][2 * c + 1], left, right[c].right);
        }
      }
    }
  }
  __syncthreads();  // the tiles are read: strips of the result take their place
  Strip& strip = reinterpret_cast<Strip*>(shared)[warp];
#pragma unroll
  for (int r = 0; r < kWarpRows / 16; ++r)
    strip.finish([&](int c, int e) { return sum[r][c].v[e]; }, out, shape, matrix, i0 + wi + r * 16,
                 j0 + wj);
}

template <class T, class Out, bool kDownA, bool kDownB>
void run(const CudaContext& ctx, const ProductShape& s, const Operand<T>& a, const Operand<T>& b,
         const Result<Out>& out) {
  const int64_t tiles_n = (s.n + kTile - 1) / kTile, tiles = (s.m + kTile - 1) / kTile * tiles_n;
  constexpr size_t kBytes =
      kStages * (TileShape<!kDownA>::kElements + TileShape<kDownB>::kElements) * sizeof(T);
  static_assert(kWarpColumns == Strip::kColumns && kThreads / kWarp * sizeof(Strip) <= kBytes);
  launch(multiply<T, Out, kDownA, kDownB>, {one_block_each(s.batch * tiles), kThreads, kBytes}, ctx,
         s, tiles_n, tiles, a, b, out);
}

}  // namespace

template <class T, class Out>
void multiply_by_warps(const CudaContext& ctx, const ProductShape& shape, const Operand<T>& a,
                       const Operand<T>& b, const Result<Out>& out) {
  const bool down_b = b.column != 1;
  if (a.column != 1)
    down_b ? run<T, Out, true, true>(ctx, shape, a, b, out)
           : run<T, Out, true, false>(ctx, shape, a, b, out);
  else
    down_b ? run<T, Out, false, true>(ctx, shape, a, b, out)
           : run<T, Out, false, false>(ctx, shape, a, b, out);
}
PINION_INSTANTIATE_PRODUCT(multiply_by_warps)

}  // namespace pinion::kernels::cuda
