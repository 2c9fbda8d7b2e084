// SPDX-License-Identifier: Apache-2.0
// The device vocabulary of kernels, and the only CUDA header that they include: accesses of up to
// 16 bytes, shared memory, asynchronous copies, sums over warps and blocks. nvcc compiles it
// against CUDA, g++ against the simulator of tests/cudasim, whose headers have the same names.
#pragma once

#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include "pinion/kernels/types.h"

namespace pinion::kernels::cuda {

// The last parameter of helpers, and what they hand on: the line of the kernel that the simulator
// names when something is wrong there.
#ifdef __CUDACC__
#define PINION_CALLER
#define PINION_OF_CALLER
#define PINION_REPORTS_ITSELF
#else
#define PINION_CALLER , cudasim::Site site = cudasim::Site::here()
#define PINION_OF_CALLER , site
// On a function that tells the simulator of its accesses, which sees no others of it.
#define PINION_REPORTS_ITSELF __attribute__((no_sanitize("thread")))
#endif

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kWarp = 32;

// --- vector access ---

// N elements on a boundary of their size together: one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N <= 16);
  T v[N];
};

template <int N, class T>
PINION_REPORTS_ITSELF __device__ __forceinline__ Pack<T, N> load_pack(const T* p PINION_CALLER) {
#ifndef __CUDACC__
  cudasim::touch_pack(p, sizeof(T) * N, false, site);
#endif
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
// In words of the instruction: nvcc takes the assignment of a pack apart into its elements, and in
// a loop it no longer sees that they would fit together.
template <int N, class T>
PINION_REPORTS_ITSELF __device__ __forceinline__ void store_pack(
    T* p, const Pack<T, N>& pack PINION_CALLER) {
#ifdef __CUDACC__
  constexpr size_t kBytes = sizeof(T) * N;
  uint32_t w[kBytes > 4 ? kBytes / 4 : 1];
  if constexpr (kBytes >= 8) memcpy(w, &pack, kBytes);
  if constexpr (kBytes == 16)
    asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(p), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
                 : "memory");
  else if constexpr (kBytes == 8)
    asm volatile("st.v2.u32 [%0], {%1, %2};" : : "l"(p), "r"(w[0]), "r"(w[1]) : "memory");
  else
    *reinterpret_cast<Pack<T, N>*>(p) = pack;
#else
  cudasim::touch_pack(p, sizeof(T) * N, true, site);
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
#endif
}

// --- shared memory: every block its own; its contents are arbitrary when the block begins ---

// What the launch asked for, in `shared_bytes`.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) unsigned char pinion_dynamic_shared[];
  return reinterpret_cast<T*>(pinion_dynamic_shared);
#else
  return static_cast<T*>(cudasim::dynamic_shared(alignof(T), cudasim::Site::here()));
#endif
}

// One object per block and type T: give each use a type of its own.
template <class T>
__device__ __forceinline__ T& block_shared() {
#ifdef __CUDACC__
  __shared__ T object;
  return object;
#else
  return *static_cast<T*>(
      cudasim::named_shared(&cudasim::shared_tag<T>, sizeof(T), alignof(T), cudasim::Site::here()));
#endif
}

// --- asynchronous copies of 16 bytes to shared memory, each on its boundary ---

// Zeros when it is not there; the address must be one that could be read.
__device__ __forceinline__ void copy_async16(void* shared, const void* global,
                                             bool there = true PINION_CALLER) {
  __pipeline_memcpy_async(shared, global, 16, there ? 0 : 16 PINION_OF_CALLER);
}
__device__ __forceinline__ void commit_async() { __pipeline_commit(); }
// Waits until at most N of the calling thread's commits are under way.
template <int N>
__device__ __forceinline__ void wait_async() {
  __pipeline_wait_prior(N);
}

// --- sums and maxima in a fixed order ---

// NaN wins.
template <class T>
__device__ __forceinline__ T greater_or_nan(T a, T b) {
  return a > b || a != a ? a : b;
}
template <class T, int kThreads>
struct WarpParts {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  T v[kThreads / kWarp];
};

// Every lane gets fold over its warp, the same bits in all where the order of two is nothing to
// fold. It orders no accesses to memory.
template <class T, class Fold>
__device__ __forceinline__ T warp_fold(T own, Fold fold) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    own = fold(own, __shfl_xor_sync(kFullWarp, own, lanes));
  return own;
}

// Every thread of a block of kThreads gets fold over all of them. All threads must call it. Where
// kThreads is a warp, a block may have many, each with a sum of its own.
template <int kThreads, class T, class Fold>
__device__ __forceinline__ T block_fold(T own, Fold fold) {
  own = warp_fold(own, fold);
  if constexpr (kThreads > kWarp) {
    WarpParts<T, kThreads>& parts = block_shared<WarpParts<T, kThreads>>();
    __syncthreads();  // the parts of an earlier call have been read
    if (threadIdx.x % kWarp == 0) parts.v[threadIdx.x / kWarp] = own;
    __syncthreads();
    own = parts.v[0];
    for (int w = 1; w < kThreads / kWarp; ++w) own = fold(own, parts.v[w]);
  }
  return own;
}

// True in every thread of the block that is the last of its launch to call this: it sees what the
// other blocks wrote before. `arrivals` is 0 before the launch and after it.
__device__ __forceinline__ bool last_block(uint32_t* arrivals) {
  struct Last {
    bool v;
  };
  Last& last = block_shared<Last>();
  __syncthreads();  // all threads of the block have written
  if (threadIdx.x == 0) {
    __threadfence();
    last.v = atomicInc(arrivals, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return last.v;
}

struct Plus {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct GreaterOrNan {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return greater_or_nan(a, b);
  }
};
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  return warp_fold(v, Plus{});
}
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T v) {
  return block_fold<kThreads>(v, Plus{});
}
template <int kThreads, class T>
__device__ __forceinline__ T block_max(T v) {
  return block_fold<kThreads>(v, GreaterOrNan{});
}

}  // namespace pinion::kernels::cuda
