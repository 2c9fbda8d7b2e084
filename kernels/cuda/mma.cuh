// SPDX-License-Identifier: Apache-2.0
// Tensor core instructions as functions of a whole warp (sm_80 and later), over 16-bit matrices in
// shared memory. Fragments are those of the PTX manual for mma.m16n8k16: with g = lane / 4 and
// t = lane % 4, a lane holds of C rows g and g + 8 of columns 2t and 2t + 1.
#pragma once

#include "pinion/kernels/cuda/device.cuh"

namespace pinion::kernels::cuda {

struct FragmentA {  // 16 x 16
  uint32_t v[4];
};
struct FragmentB {  // 16 x 8
  uint32_t v[2];
};
struct FragmentC {  // 16 x 8
  float v[4];
};

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8, 16 bytes on their
// boundary. Of matrix i a lane gets elements (g, 2t) and (g, 2t + 1) in v[i], or (2t, g) and
// (2t + 1, g) when they are transposed on the way.
template <bool kTranspose>
__device__ __forceinline__ void load_matrices(uint32_t (&v)[4], const void* row PINION_CALLER) {
#ifdef __CUDACC__
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTranspose)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(address)
                 : "memory");
#else
  cudasim::load_matrices(v, row, kTranspose, site);
#endif
}

// Two floats rounded to 16-bit elements of one register, the first one lower.
template <class T>
__device__ __forceinline__ uint32_t packed(float first, float second) {
#ifdef __CUDACC__
  uint32_t pair;
  if constexpr (std::is_same_v<T, BFloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return T(first).bits | static_cast<uint32_t>(T(second).bits) << 16;
#endif
}
template <class T>
__device__ __forceinline__ void store_pair(T* to, uint32_t pair PINION_CALLER) {
  store_pack<2>(to, bit_cast<Pack<T, 2>>(pair) PINION_OF_CALLER);
}

// c += a b, with products and sums in float.
template <class T>
__device__ __forceinline__ void multiply_add(FragmentC& c, const FragmentA& a,
                                             const FragmentB& b PINION_CALLER) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, BFloat16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
#else
  const auto widen = [](uint16_t bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return static_cast<float>(x);
  };
  cudasim::multiply_matrices(c.v, a.v, b.v, widen, site);
#endif
}

// --- fragments of matrices in shared memory, whose rows lie `stride` elements apart ---

// Rows i to i + 15 and columns k to k + 15 of A, stored as it is, or as its transpose [k, i].
template <bool kTransposed, class T>
__device__ __forceinline__ FragmentA fragment_a(const T* x, int stride, int i,
                                                int k PINION_CALLER) {
  static_assert(sizeof(T) == 2);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, in = lane % 8;
  const int odd = lane / 8 % 2 * 8, high = lane / 16 * 8;  // of the matrix whose row the lane gives
  FragmentA f;
  if constexpr (kTransposed)
    load_matrices<true>(f.v, x + (k + in + high) * stride + i + odd PINION_OF_CALLER);
  else
    load_matrices<false>(f.v, x + (i + in + odd) * stride + k + high PINION_OF_CALLER);
  return f;
}

// Rows k to k + 15 and columns j to j + 15 of B, two fragments, stored as it is, or as its
// transpose [j, k].
struct PairB {
  FragmentB left, right;
};
template <bool kTransposed, class T>
__device__ __forceinline__ PairB fragments_b(const T* x, int stride, int k, int j PINION_CALLER) {
  static_assert(sizeof(T) == 2);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, in = lane % 8;
  const int odd = lane / 8 % 2 * 8, high = lane / 16 * 8;
  uint32_t v[4];
  if constexpr (kTransposed)
    load_matrices<false>(v, x + (j + in + high) * stride + k + odd PINION_OF_CALLER);
  else
    load_matrices<true>(v, x + (k + in + odd) * stride + j + high PINION_OF_CALLER);
  return {{{v[0], v[1]}}, {{v[2], v[3]}}};
}

}  // namespace pinion::kernels::cuda
