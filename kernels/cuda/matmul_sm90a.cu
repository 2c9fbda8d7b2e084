// SPDX-License-Identifier: Apache-2.0
// Large products of 16-bit operands on Hopper: one warp has TMA fill a ring of stages with tiles of
// both operands, two warp groups multiply them by wgmma as they lie. Compiled for sm_90a alone.
#include "pinion/kernels/cuda/hopper.cuh"
#include "pinion/kernels/cuda/matmul.cuh"

namespace pinion::kernels::cuda {
namespace {

constexpr int kTile = 128;  // rows and columns of the result that a block computes
constexpr int kDepth = kLineElements;
constexpr int kStages = 4;
constexpr int kGroups = 2;  // of warps that multiply, each 64 rows of the tile
constexpr int kConsumers = kGroups * kWarpGroup;
constexpr int kThreads = kConsumers + kWarp;
constexpr int kTileBytes = kTile * kDepth * 2;
constexpr int kHalfBytes = kTileBytes / 2;  // 64 lines: of one group's rows, or of 64 rows of depth

// A tile has its 128 rows (of b, columns) as 128 lines along the depth, or as two times 64 lines of
// the depth with 64 of them each. Either way a half begins kHalfBytes behind the other.
struct Ring {
  alignas(kTileAlignment) unsigned char a[kStages][kTileBytes];
  unsigned char b[kStages][kTileBytes];
  Strip strips[kConsumers / kWarp];
  uint64_t full[kStages], empty[kStages];
};

struct Place {
  int matrix, row, column;
};

// Rows (of b, columns) from `at` on at depth k.
template <bool kAcross>
__device__ __forceinline__ void load_operand(unsigned char* to, const CUtensorMap* map, int at,
                                             int k, int matrix, uint64_t* full) {
  if constexpr (kAcross) {
    load_tile(to, map, at, k, matrix, full);
    load_tile(to + kHalfBytes, map, at + kLineElements, k, matrix, full);
  } else {
    load_tile(to, map, k, at, matrix, full);
  }
}

template <bool kAcrossA, bool kAcrossB>
__device__ __forceinline__ void produce(Ring& ring, const CUtensorMap* a, const CUtensorMap* b,
                                        Place place, int steps) {
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages, round = step / kStages;
    wait_for_phase(&ring.empty[stage], (round + 1) & 1);
    uint64_t* full = &ring.full[stage];
    arrive_expecting(full, 2 * kTileBytes);
    load_operand<kAcrossA>(ring.a[stage], a, place.row, step * kDepth, place.matrix, full);
    load_operand<kAcrossB>(ring.b[stage], b, place.column, step * kDepth, place.matrix, full);
  }
}

// The part of a tile at depth k.
template <bool kAcross>
__device__ __forceinline__ uint64_t describe_part(const unsigned char* tile, int k) {
  return describe_tile(tile + k * (kAcross ? kLineBytes : 2), kHalfBytes);
}

// The sums of rows 64 * group to 64 * group + 63 of the tile. One group of products stays under way
// while the next is issued.
template <class T, bool kAcrossA, bool kAcrossB>
__device__ __forceinline__ void consume(Ring& ring, int group, int steps,
                                        float (&sums)[kTile / 2]) {
  const bool speaks = threadIdx.x % kWarp == 0;  // for its warp
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages;
    wait_for_phase(&ring.full[stage], (step / kStages) & 1);
    begin_products(sums);
#pragma unroll
    for (int k = 0; k < kDepth; k += 16)
      multiply_tiles<T, kTile, kAcrossA, kAcrossB>(
          sums, describe_part<kAcrossA>(ring.a[stage] + group * kHalfBytes, k),
          describe_part<kAcrossB>(ring.b[stage], k));
    commit_products();
    wait_products<1>(sums);
    if (step > 0 && speaks) arrive(&ring.empty[(step - 1) % kStages]);
  }
  wait_products<0>(sums);
}

template <class T, class Out, bool kAcrossA, bool kAcrossB>
__global__ void __launch_bounds__(kThreads, 1)
    multiply(ProductShape shape, int tiles_n, int tiles, const __grid_constant__ CUtensorMap a,
             const __grid_constant__ CUtensorMap b, Result<Out> out) {
  Ring& ring = *dynamic_shared<Ring>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const int tile = static_cast<int>(blockIdx.x) % tiles;
  const Place place{static_cast<int>(blockIdx.x) / tiles, tile / tiles_n * kTile,
                    tile % tiles_n * kTile};
  const int steps = static_cast<int>((shape.k + kDepth - 1) / kDepth);
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&ring.full[s], 1);
      init_barrier(&ring.empty[s], kConsumers / kWarp);
    }
    publish_barriers();
  }
  __syncthreads();
  if (warp == kConsumers / kWarp) {
    if (thread % kWarp == 0) produce<kAcrossA, kAcrossB>(ring, &a, &b, place, steps);
    return;  // no barrier of the block follows
  }
  float sums[kTile / 2] = {};
  consume<T, kAcrossA, kAcrossB>(ring, thread / kWarpGroup, steps, sums);
#pragma unroll
  for (int s = 0; s < kTile / Strip::kColumns; ++s)
    ring.strips[warp].finish([&](int c, int e) { return sums[(s * 4 + c) * 4 + e]; }, out, shape,
                             place.matrix, place.row + warp * Strip::kRows,
                             place.column + s * Strip::kColumns);
}

// A matrix [rows, columns] whose depth is its columns (of a) or its rows (of b).
template <class T>
CUtensorMap map_operand(const Operand<T>& x, int64_t batch, int64_t rows, int64_t columns,
                        bool across) {
  const bool along = x.column == 1;  // a row
  TiledMatrices m{x.data,
                  std::is_same_v<T, BFloat16>,
                  batch,
                  along ? rows : columns,
                  along ? columns : rows,
                  along ? x.row : x.column,
                  x.batch};
  if (batch == 1) m.matrix = m.lines * m.line;  // any distance that is a multiple
  return map_tiles(m, across ? kDepth : kTile);
}

template <class T, class Out, bool kAcrossA, bool kAcrossB>
void run(const CudaContext& ctx, const ProductShape& s, const Operand<T>& a, const Operand<T>& b,
         const Result<Out>& out) {
  const int64_t tiles_n = (s.n + kTile - 1) / kTile, tiles = (s.m + kTile - 1) / kTile * tiles_n;
  launch(multiply<T, Out, kAcrossA, kAcrossB>,
         {one_block_each(s.batch * tiles), kThreads, sizeof(Ring)}, ctx, s, tiles_n, tiles,
         map_operand(a, s.batch, s.m, s.k, kAcrossA), map_operand(b, s.batch, s.k, s.n, kAcrossB),
         out);
}

}  // namespace

template <class T, class Out>
void multiply_by_warp_groups(const CudaContext& ctx, const ProductShape& shape, const Operand<T>& a,
                             const Operand<T>& b, const Result<Out>& out) {
  const bool across_b = b.column == 1;
  if (a.column != 1)
    across_b ? run<T, Out, true, true>(ctx, shape, a, b, out)
             : run<T, Out, true, false>(ctx, shape, a, b, out);
  else
    across_b ? run<T, Out, false, true>(ctx, shape, a, b, out)
             : run<T, Out, false, false>(ctx, shape, a, b, out);
}
PINION_INSTANTIATE_PRODUCT(multiply_by_warp_groups)

}  // namespace pinion::kernels::cuda
