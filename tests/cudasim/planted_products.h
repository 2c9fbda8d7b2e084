// SPDX-License-Identifier: Apache-2.0
// Linear layers, y = x w^T over bf16, for planted_bugs_test.cpp: by warps with asynchronous copies,
// and by a warp group with a ring of tiles.
#pragma once

#include "pinion/kernels/cuda/hopper.cuh"
#include "pinion/kernels/cuda/mma.cuh"
#include "planted_bugs.h"

namespace cudasim::testing::planted {

using pinion::BFloat16;
using pinion::kernels::cuda::arrive;
using pinion::kernels::cuda::arrive_expecting;
using pinion::kernels::cuda::begin_products;
using pinion::kernels::cuda::commit_async;
using pinion::kernels::cuda::commit_products;
using pinion::kernels::cuda::copy_async16;
using pinion::kernels::cuda::describe_tile;
using pinion::kernels::cuda::dynamic_shared;
using pinion::kernels::cuda::fragment_a;
using pinion::kernels::cuda::FragmentA;
using pinion::kernels::cuda::FragmentC;
using pinion::kernels::cuda::fragments_b;
using pinion::kernels::cuda::init_barrier;
using pinion::kernels::cuda::kTileAlignment;
using pinion::kernels::cuda::load_tile;
using pinion::kernels::cuda::map_tiles;
using pinion::kernels::cuda::multiply_add;
using pinion::kernels::cuda::multiply_tiles;
using pinion::kernels::cuda::PairB;
using pinion::kernels::cuda::publish_barriers;
using pinion::kernels::cuda::wait_async;
using pinion::kernels::cuda::wait_for_phase;
using pinion::kernels::cuda::wait_products;

// Tiles of 32 x 32 by four warps, 16 deep, two stages. n and k are multiples of 32 and 16.
template <Bug kBug>
void linear_by_warps(const BFloat16* x, const BFloat16* w, int m, int n, int k, float* y) {
  constexpr int kStride = 24, kTile = 32 * kStride;
  BFloat16* const shared = dynamic_shared<BFloat16>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int i0 = static_cast<int>(blockIdx.y) * 32, j0 = static_cast<int>(blockIdx.x) * 32;
  const auto copy_step = [&](int step) {
    const int row = thread % 64 / 2, chunk = thread % 2 * 8, at = step * 16 + chunk;
    BFloat16* to = shared + step % 2 * 2 * kTile + row * kStride + chunk;
    if (at < k && thread < 64) {
      const bool there = kBug == Bug::row_too_far ? i0 + row <= m : i0 + row < m;
      copy_async16(to, there ? x + (i0 + row) * k + at : x, there);
    } else if (at < k) {
      copy_async16(to + kTile, w + (j0 + row) * k + at);
    }
    commit_async();
  };
  FragmentC sum[2] = {};
  copy_step(0);
  copy_step(1);
  for (int step = 0; step < k / 16; ++step) {
    kBug == Bug::weak_wait ? wait_async<2>() : wait_async<1>();
    if (kBug != Bug::no_barrier_after_wait) __syncthreads();
    const BFloat16* tile = shared + step % 2 * 2 * kTile;
    const FragmentA a = fragment_a<false>(tile, kStride, warp / 2 * 16, 0);
    const PairB b = fragments_b<true>(tile + kTile, kStride, 0, warp % 2 * 16);
    multiply_add<BFloat16>(sum[0], a, b.left);
    multiply_add<BFloat16>(sum[1], a, b.right);
    if (kBug != Bug::refill_without_barrier) __syncthreads();
    copy_step(step + 2);
  }
  const int lane = thread % 32, g = lane / 4, t = lane % 4;
  for (int c = 0; c < 2; ++c)
    for (int e = 0; e < 4; ++e) {
      const int i = i0 + warp / 2 * 16 + g + e / 2 * 8;
      if (i < m) y[i * n + j0 + warp % 2 * 16 + c * 8 + t * 2 + e % 2] = sum[c].v[e];
    }
}

// Tiles of 64 x 64 by one warp group, which a fifth warp feeds, 64 deep, two stages.
struct SmallRing {
  static constexpr int kBytes = 64 * 128;
  alignas(kTileAlignment) unsigned char a[2][kBytes], b[2][kBytes];
  uint64_t full[2], empty[2];
};
template <Bug kBug>
void linear_by_warp_group(const CUtensorMap map_x, const CUtensorMap map_w, int m, int n, int k,
                          float* y) {
  SmallRing& ring = *dynamic_shared<SmallRing>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int i0 = static_cast<int>(blockIdx.y) * 64, j0 = static_cast<int>(blockIdx.x) * 64;
  if (thread == 0) {
    for (int s = 0; s < 2; ++s) {
      init_barrier(&ring.full[s], 1);
      init_barrier(&ring.empty[s], 4);
    }
    publish_barriers();
  }
  if (kBug != Bug::no_barrier_after_init) __syncthreads();
  const int steps = (k + 63) / 64;
  if (warp == 4) {
    for (int step = 0; lane == 0 && step < steps; ++step) {
      const int s = step % 2, parity = step / 2 & 1;
      if (kBug != Bug::no_wait_for_empty)
        wait_for_phase(&ring.empty[s], kBug == Bug::wrong_parity ? parity : parity ^ 1);
      const int extra = kBug == Bug::too_many_bytes ? 16 : 0;
      arrive_expecting(&ring.full[s], 2 * SmallRing::kBytes + extra);
      load_tile(ring.a[s], &map_x, step * 64, i0, 0, &ring.full[s]);
      load_tile(ring.b[s], &map_w, step * 64, j0, 0, &ring.full[s]);
    }
    return;
  }
  float sums[32] = {};
  for (int step = 0; step < steps; ++step) {
    const int s = step % 2;
    if (kBug != Bug::no_wait_for_full) wait_for_phase(&ring.full[s], step / 2 & 1);
    begin_products(sums);
    for (int part = 0; part < 64; part += 16)
      multiply_tiles<BFloat16, 64, false, false>(sums, describe_tile(ring.a[s] + part * 2, 0),
                                                 describe_tile(ring.b[s] + part * 2, 0));
    commit_products();
    if (kBug != Bug::no_wait_for_products) wait_products<0>(sums);
    if (lane == 0) arrive(&ring.empty[s]);
  }
  const int g = lane / 4, t = lane % 4;
  for (int e = 0; e < 32; ++e) {
    const int i = i0 + warp * 16 + g + e / 2 % 2 * 8, j = j0 + e / 4 * 8 + t * 2 + e % 2;
    if (i < m && j < n) y[i * n + j] = sums[e];
  }
}

}  // namespace cudasim::testing::planted
