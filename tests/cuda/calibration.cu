// SPDX-License-Identifier: Apache-2.0
// Kernels of calibration.h that every device runs.
#include "calibration.h"
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/mma.cuh"

namespace pinion::calibration {
namespace {

using namespace kernels::cuda;  // NOLINT: the wrappers

template <class T>
__global__ void multiply_add_kernel(const uint32_t* in, uint32_t* out) {
  const uint32_t* own = in + threadIdx.x * 10;
  FragmentA a;
  FragmentB b;
  FragmentC c;
  for (int i = 0; i < 4; ++i) a.v[i] = own[i];
  for (int i = 0; i < 2; ++i) b.v[i] = own[4 + i];
  for (int i = 0; i < 4; ++i) c.v[i] = bit_cast<float>(own[6 + i]);
  kernels::cuda::multiply_add<T>(c, a, b);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = bit_cast<uint32_t>(c.v[i]);
}

struct alignas(16) Rows {
  uint32_t v[32 * 4];
};
template <bool kTranspose>
__global__ void load_matrices_kernel(const uint32_t* in, uint32_t* out) {
  Rows& rows = block_shared<Rows>();
  for (int i = 0; i < 4; ++i) rows.v[threadIdx.x * 4 + i] = in[threadIdx.x * 4 + i];
  __syncthreads();
  uint32_t v[4];
  kernels::cuda::load_matrices<kTranspose>(v, &rows.v[in[128 + threadIdx.x] * 4]);
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = v[i];
}

struct alignas(16) Copies {
  uint32_t v[64 * 4];
};
__global__ void copy_async_kernel(const uint32_t* in, uint32_t* out) {
  Copies& copies = block_shared<Copies>();
  copy_async16(&copies.v[threadIdx.x * 4], in + threadIdx.x * 4, in[256 + threadIdx.x] % 2 == 0);
  commit_async();
  wait_async<0>();
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = copies.v[threadIdx.x * 4 + i];
}

__global__ void warp_operations_kernel(const uint32_t* in, uint32_t* out) {
  const uint32_t value = in[threadIdx.x * 2], choice = in[threadIdx.x * 2 + 1];
  uint32_t* own = out + threadIdx.x * kWarpResults;
  const unsigned half = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  own[0] = __shfl_sync(kFullWarp, value, static_cast<int>(choice % 32));
  own[1] = __shfl_sync(kFullWarp, value, static_cast<int>(choice % 32), 8);
  own[2] = __shfl_up_sync(kFullWarp, value, 5u);
  own[3] = __shfl_down_sync(kFullWarp, value, 3u, 16);
  own[4] = __shfl_xor_sync(kFullWarp, value, 21);
  own[5] = __shfl_xor_sync(kFullWarp, value, 12, 8);
  own[6] = __ballot_sync(kFullWarp, static_cast<int>(value & 1));
  own[7] = static_cast<uint32_t>(__any_sync(half, value % 16 == 3));
  own[8] = static_cast<uint32_t>(__all_sync(half, value % 16 != 3));
  own[9] = __match_any_sync(half, choice % 4);
  own[10] = __reduce_add_sync(half, value);
  own[11] = __reduce_min_sync(kFullWarp, value);
  own[12] = __reduce_max_sync(kFullWarp, value);
  own[13] = static_cast<uint32_t>(__popc(value) + 100 * __clz(static_cast<int>(value)) +
                                  10000 * __ffs(static_cast<int>(value)));
}

__global__ void conversions_kernel(int n, const uint32_t* in, uint32_t* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const auto x = bit_cast<float>(in[i]);
  const auto low = static_cast<uint16_t>(in[i]);
  out[i * 4] = BFloat16(x).bits;
  out[i * 4 + 1] = Half(x).bits;
  out[i * 4 + 2] = bit_cast<uint32_t>(static_cast<float>(bit_cast<BFloat16>(low)));
  out[i * 4 + 3] = bit_cast<uint32_t>(static_cast<float>(bit_cast<Half>(low)));
}

__global__ void atomics_kernel(int n, const uint32_t* in, uint32_t* results) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const uint32_t v = in[i];
  atomicAdd(&results[0], v);
  atomicMax(&results[1], v);
  atomicMin(&results[2], v);
  atomicAnd(&results[3], v | 0xffu << i % 24);
  atomicOr(&results[4], v & 0xffu << i % 24);
  atomicXor(&results[5], v);
  atomicInc(&results[6], 99u);
  uint32_t seen = 0;  // adds by compare and swap
  for (;;) {
    const uint32_t before = atomicCAS(&results[7], seen, seen + v);
    if (before == seen) break;
    seen = before;
  }
}

unsigned blocks_of(int n) { return static_cast<unsigned>(n + 127) / 128; }

}  // namespace

void multiply_add(const CudaContext& ctx, bool bfloat, const uint32_t* in, uint32_t* out) {
  launch(bfloat ? multiply_add_kernel<BFloat16> : multiply_add_kernel<Half>, {1, 32}, ctx, in, out);
}
void load_matrices(const CudaContext& ctx, bool transpose, const uint32_t* in, uint32_t* out) {
  launch(transpose ? load_matrices_kernel<true> : load_matrices_kernel<false>, {1, 32}, ctx, in,
         out);
}
void copy_async(const CudaContext& ctx, const uint32_t* in, uint32_t* out) {
  launch(copy_async_kernel, {1, 64}, ctx, in, out);
}
void warp_operations(const CudaContext& ctx, const uint32_t* in, uint32_t* out) {
  launch(warp_operations_kernel, {1, 32}, ctx, in, out);
}
void conversions(const CudaContext& ctx, int n, const uint32_t* in, uint32_t* out) {
  launch(conversions_kernel, {blocks_of(n), 128}, ctx, n, in, out);
}
void atomics(const CudaContext& ctx, int n, const uint32_t* in, uint32_t* results) {
  launch(atomics_kernel, {blocks_of(n), 128}, ctx, n, in, results);
}

}  // namespace pinion::calibration
