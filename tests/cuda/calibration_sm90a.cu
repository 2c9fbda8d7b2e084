// SPDX-License-Identifier: Apache-2.0
// Kernels of calibration.h for devices of capability 9.0.
#include "calibration.h"
#include "pinion/kernels/cuda/hopper.cuh"
#include "pinion/kernels/cuda/launch.h"

namespace pinion::calibration {
namespace {

using namespace kernels::cuda;  // NOLINT: the wrappers

constexpr int kBoxLines = 64;
constexpr int kBoxBytes = kBoxLines * kLineBytes;

struct Tiles {
  alignas(kTileAlignment) unsigned char a[kBoxBytes];
  unsigned char b[2 * kBoxBytes];
  uint64_t loaded;
};

// Thread 0 starts load(tiles) and says how many bytes come; all wait for them.
template <class F>
__device__ __forceinline__ Tiles& with_tiles(int bytes, F load) {
  Tiles& tiles = *dynamic_shared<Tiles>();
  if (threadIdx.x == 0) {
    init_barrier(&tiles.loaded, 1);
    publish_barriers();
    arrive_expecting(&tiles.loaded, bytes);
    load(tiles);
  }
  __syncthreads();  // the barrier is there
  wait_for_phase(&tiles.loaded, 0);
  return tiles;
}

__global__ void load_tile_kernel(const __grid_constant__ CUtensorMap map, int column, int line,
                                 int matrix, uint32_t* out) {
  Tiles& tiles = with_tiles(kBoxBytes, [&](Tiles& t) {
    kernels::cuda::load_tile(t.a, &map, column, line, matrix, &t.loaded);
  });
  const uint32_t* words = reinterpret_cast<const uint32_t*>(tiles.a);
  for (int i = static_cast<int>(threadIdx.x); i < kBoxBytes / 4; i += kWarpGroup) out[i] = words[i];
}

template <class T, int N, bool kAcrossA, bool kAcrossB>
__global__ void multiply_tiles_kernel(const __grid_constant__ CUtensorMap a,
                                      const __grid_constant__ CUtensorMap b, float* out) {
  Tiles& tiles = with_tiles(kBoxBytes + N * kLineBytes, [&](Tiles& t) {
    kernels::cuda::load_tile(t.a, &a, 0, 0, 0, &t.loaded);
    for (int half = 0; half < N / 64; ++half)
      kernels::cuda::load_tile(t.b + half * kBoxBytes, &b, kAcrossB ? half * 64 : 0,
                               kAcrossB ? 0 : half * 64, 0, &t.loaded);
  });
  float sums[N / 2] = {};
  begin_products(sums);
#pragma unroll
  for (int k = 0; k < 64; k += 16)
    kernels::cuda::multiply_tiles<T, N, kAcrossA, kAcrossB>(
        sums, describe_tile(tiles.a + k * (kAcrossA ? kLineBytes : 2), kBoxBytes),
        describe_tile(tiles.b + k * (kAcrossB ? kLineBytes : 2), kBoxBytes));
  commit_products();
  wait_products<0>(sums);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) out[threadIdx.x * (N / 2) + i] = sums[i];
}

template <class T, int N, bool kAcrossA, bool kAcrossB>
void run(const CudaContext& ctx, const void* a, const void* b, float* sums) {
  constexpr bool kBFloat = std::is_same_v<T, BFloat16>;
  const int64_t lines = kAcrossB ? 64 : N, length = kAcrossB ? N : 64;
  launch(multiply_tiles_kernel<T, N, kAcrossA, kAcrossB>, {1, kWarpGroup, sizeof(Tiles)}, ctx,
         map_tiles({a, kBFloat, 1, 64, 64, 64, 64 * 64}, kBoxLines),
         map_tiles({b, kBFloat, 1, lines, length, length, lines * length}, kBoxLines), sums);
}

}  // namespace

void load_tile(const CudaContext& ctx, int column, int line, int matrix, const void* in,
               uint32_t* out) {
  launch(load_tile_kernel, {1, kWarpGroup, sizeof(Tiles)}, ctx,
         map_tiles({in, true, 2, 70, 88, 88, 70 * 88}, kBoxLines), column, line, matrix, out);
}

void multiply_tiles(const CudaContext& ctx, bool bfloat, int columns, bool across_a, bool across_b,
                    const void* a, const void* b, float* sums) {
  const auto with_sides = [&]<class T, int N>() {
    if (across_a)
      across_b ? run<T, N, true, true>(ctx, a, b, sums) : run<T, N, true, false>(ctx, a, b, sums);
    else
      across_b ? run<T, N, false, true>(ctx, a, b, sums) : run<T, N, false, false>(ctx, a, b, sums);
  };
  if (bfloat)
    columns == 64 ? with_sides.template operator()<BFloat16, 64>()
                  : with_sides.template operator()<BFloat16, 128>();
  else
    columns == 64 ? with_sides.template operator()<Half, 64>()
                  : with_sides.template operator()<Half, 128>();
}

}  // namespace pinion::calibration
