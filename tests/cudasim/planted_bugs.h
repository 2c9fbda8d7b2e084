// SPDX-License-Identifier: Apache-2.0
// The bugs of planted_bugs_test.cpp and the plain kernels that they are planted in; kernels of
// tensor cores are in planted_products.h. A kernel without a bug is correct.
#pragma once

#include <cmath>

#include "pinion/kernels/cuda/device.cuh"
#include "sim_testing.h"

namespace cudasim::testing::planted {

using pinion::kernels::cuda::block_shared;
using pinion::kernels::cuda::block_sum;
using pinion::kernels::cuda::kFullWarp;
using pinion::kernels::cuda::load_pack;
using pinion::kernels::cuda::Pack;
using pinion::kernels::cuda::store_pack;

enum class Bug : uint8_t {
  none,
  // softmax and cross-entropy
  no_barrier,
  one_pack_too_far,
  half_a_mask,
  early_return,
  // transpose
  no_barrier_in_tile,
  column_too_far,
  shared_column_too_far,
  // linear layer on mma.sync
  no_barrier_after_wait,
  row_too_far,
  weak_wait,
  refill_without_barrier,
  // AdamW
  tail_too_far,
  misaligned_pack,
  tail_by_every_block,
  // histogram
  no_barrier_after_clearing,
  plain_shared_addition,
  plain_device_addition,
  // sums
  no_fence,
  block_barrier_for_grid,
  // linear layer on wgmma
  no_barrier_after_init,
  no_wait_for_empty,
  wrong_parity,
  too_many_bytes,
  no_wait_for_full,
  no_wait_for_products,
};

template <Bug kBug, class Fold>
float fold_block(float v, Fold fold) {
  struct Parts {
    float v[4];
  };
  for (int lanes = 16; lanes > 0; lanes /= 2)
    v = fold(v, __shfl_xor_sync(kBug == Bug::half_a_mask ? 0xffffu : kFullWarp, v, lanes));
  Parts& parts = block_shared<Parts>();
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts.v[threadIdx.x / 32] = v;
  if (kBug != Bug::no_barrier) __syncthreads();
  return fold(fold(parts.v[0], parts.v[1]), fold(parts.v[2], parts.v[3]));
}

// loss[r] = log(sum exp x[r]) - x[r, target[r]]; 128 threads a row, rows of whole packs.
template <Bug kBug>
void cross_entropy(const float* x, const int* target, int n, float* loss) {
  const int thread = static_cast<int>(threadIdx.x), packs = n / 4;
  x += static_cast<int>(blockIdx.x) * n;
  if (kBug == Bug::early_return && thread >= packs) return;
  const auto for_own = [&](auto f) {
    const int end = kBug == Bug::one_pack_too_far ? packs + 1 : packs;
    for (int p = thread; p < end; p += 128)
      for (const float v : load_pack<4>(x + p * 4).v) f(v);
  };
  float top = -INFINITY, sum = 0;
  for_own([&](float v) { top = std::fmax(top, v); });
  top = fold_block<kBug>(top, [](float a, float b) { return std::fmax(a, b); });
  for_own([&](float v) { sum += std::exp(v - top); });
  sum = fold_block<kBug>(sum, [](float a, float b) { return a + b; });
  if (thread == 0) loss[blockIdx.x] = std::log(sum) + top - x[target[blockIdx.x]];
}

// y [columns, rows] by tiles of 32 x 32; blocks of 32 x 8 threads.
template <Bug kBug>
void transpose(const float* x, int rows, int columns, float* y) {
  struct Tile {
    float v[32 * 33];
  };
  Tile& tile = block_shared<Tile>();
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int r0 = static_cast<int>(blockIdx.y) * 32, c0 = static_cast<int>(blockIdx.x) * 32;
  const int most = kBug == Bug::column_too_far ? columns + 1 : columns;
  const int shift = kBug == Bug::shared_column_too_far ? 2 : 0;  // where it is written and read
  for (int r = ty; r < 32; r += 8)
    if (r0 + r < rows && c0 + tx < most)
      tile.v[r * 33 + tx + shift] = x[(r0 + r) * columns + c0 + tx];
  if (kBug != Bug::no_barrier_in_tile) __syncthreads();
  for (int c = ty; c < 32; c += 8)
    if (c0 + c < most && r0 + tx < rows) y[(c0 + c) * rows + r0 + tx] = tile.v[tx * 33 + c + shift];
}

// Decoupled weight decay of 0.1, lr 0.1, betas of a half, no correction.
inline void adamw_of_one(float& w, float dw, float& m, float& v) {
  m = 0.5f * m + 0.5f * dw;
  v = 0.5f * v + 0.5f * dw * dw;
  w -= 0.1f * (m / (std::sqrt(v) + 1e-3f) + 0.1f * w);
}
template <Bug kBug>
void adamw(float* w, const float* dw, float* m, float* v, int n) {
  const int first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int stride = static_cast<int>(gridDim.x * blockDim.x), packs = n / 4;
  const int off = kBug == Bug::misaligned_pack ? 1 : 0;
  for (int p = first; p < packs - off; p += stride) {
    const int i = p * 4 + off;
    Pack<float, 4> a = load_pack<4>(w + i), b = load_pack<4>(m + i), c = load_pack<4>(v + i);
    const Pack<float, 4> g = load_pack<4>(dw + i);
    for (int e = 0; e < 4; ++e) adamw_of_one(a.v[e], g.v[e], b.v[e], c.v[e]);
    store_pack<4>(w + i, a);
    store_pack<4>(m + i, b);
    store_pack<4>(v + i, c);
  }
  if (kBug != Bug::tail_by_every_block && blockIdx.x != 0) return;
  const int end = kBug == Bug::tail_too_far ? n + 1 : n;
  for (int i = packs * 4 + static_cast<int>(threadIdx.x); i < end; i += 128)
    adamw_of_one(w[i], dw[i], m[i], v[i]);
}

inline constexpr int kBins = 40;
template <Bug kBug>
void histogram(const int* x, int n, int* counts) {
  struct Bins {
    int v[kBins];
  };
  Bins& bins = block_shared<Bins>();
  for (unsigned b = threadIdx.x; b < kBins; b += blockDim.x) bins.v[b] = 0;
  if (kBug != Bug::no_barrier_after_clearing) __syncthreads();
  const int stride = static_cast<int>(gridDim.x * blockDim.x);
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += stride)
    if (kBug == Bug::plain_shared_addition)
      ++bins.v[x[i]];
    else
      atomicAdd(&bins.v[x[i]], 1);
  __syncthreads();
  for (unsigned b = threadIdx.x; b < kBins; b += blockDim.x)
    if (kBug == Bug::plain_device_addition)
      counts[b] += bins.v[b];
    else
      atomicAdd(&counts[b], bins.v[b]);
}

// The last block to arrive adds what the others left.
template <Bug kBug>
void sum_in_one_pass(const float* x, int n, float* parts, uint32_t* arrivals, float* y) {
  struct Last {
    bool v;
  };
  const int stride = static_cast<int>(gridDim.x * blockDim.x);
  float sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += stride)
    sum += x[i];
  sum = block_sum<128>(sum);
  Last& last = block_shared<Last>();
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = sum;
    if (kBug != Bug::no_fence) __threadfence();
    last.v = atomicInc(arrivals, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last.v || threadIdx.x != 0) return;
  *y = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) *y += parts[b];
}

template <Bug kBug>
void sum_of_the_grid(const float* x, int n, float* parts, float* y) {
  float sum = 0;
  const int stride = static_cast<int>(gridDim.x * blockDim.x);
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += stride)
    sum += x[i];
  sum = block_sum<128>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
  if (kBug == Bug::block_barrier_for_grid)
    __syncthreads();
  else
    grid_barrier(Site::here());
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  *y = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) *y += parts[b];
}

}  // namespace cudasim::testing::planted
