// SPDX-License-Identifier: Apache-2.0
// What sm_90a adds: barriers in shared memory that count bytes (mbarrier), copies of whole tiles by
// a tensor map (TMA), and products of a warp group over tiles in shared memory (wgmma). Names and
// rules are those of the PTX manual; the simulator has a twin of each function, with its checks.
#pragma once

#include "pinion/kernels/cuda/device.cuh"
#include "pinion/kernels/cuda/tensor_map.h"

namespace pinion::kernels::cuda {

inline constexpr int kWarpGroup = 128;  // threads
// Tiles begin on this boundary; so does every eighth line of one.
inline constexpr int kTileAlignment = 1024;

__device__ __forceinline__ uint32_t shared_address(const void* p PINION_CALLER) {
#ifdef __CUDACC__
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#else
  return cudasim::shared_address(p, site);
#endif
}

// --- barriers: a phase ends when all have arrived and all bytes that they expect have come ---

__device__ __forceinline__ void init_barrier(uint64_t* barrier, int arrivals PINION_CALLER) {
#ifdef __CUDACC__
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
#else
  cudasim::init_barrier(barrier, arrivals, site);
#endif
}
// Shows the calling thread's new barriers to copies; a barrier of the block shows them to threads.
__device__ __forceinline__ void publish_barriers() {
#ifdef __CUDACC__
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  cudasim::publish_barriers();
#endif
}
__device__ __forceinline__ void arrive(uint64_t* barrier PINION_CALLER) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
#else
  cudasim::arrive_at_barrier(barrier, 0, site);
#endif
}
__device__ __forceinline__ void arrive_expecting(uint64_t* barrier, int bytes PINION_CALLER) {
#ifdef __CUDACC__
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#else
  cudasim::arrive_at_barrier(barrier, bytes, site);
#endif
}
// Phases are even and odd in turn, the first is even; before it, an odd one counts as ended.
__device__ __forceinline__ void wait_for_phase(uint64_t* barrier, int parity PINION_CALLER) {
#ifdef __CUDACC__
  uint32_t ended = 0;
  while (!ended)
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
#else
  cudasim::wait_for_phase(barrier, parity, site);
#endif
}

// --- tiles ---

// Starts the copy of the map's box from (column, line, matrix) on, zeros beyond the extents; the
// barrier is told when its bytes are there, those of zeros included. Chunk c of 16 bytes of line l
// comes to lie at chunk c ^ (l % 8) of its line.
__device__ __forceinline__ void load_tile(void* shared, const CUtensorMap* map, int column,
                                          int line, int matrix, uint64_t* barrier PINION_CALLER) {
#ifdef __CUDACC__
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(line), "r"(matrix)
      : "memory");
#else
  cudasim::load_tile(shared, map, {column, line, matrix}, barrier, site);
#endif
}

// A tile as wgmma reads it, under "Matrix Descriptor Format": every eighth line of 128 bytes lies
// 1024 bytes further, lines of the next 64 elements `next_lines` bytes.
__device__ __forceinline__ uint64_t describe_tile(const void* start,
                                                  uint32_t next_lines PINION_CALLER) {
  constexpr uint64_t kSwizzle128 = 1;
  const uint64_t address = cuda::shared_address(start PINION_OF_CALLER) & 0x3ffff;
  return address >> 4 | uint64_t{next_lines >> 4} << 16 | uint64_t{kTileAlignment >> 4} << 32 |
         kSwizzle128 << 62;
}

// Shows what the calling thread has stored in shared memory to the engine that multiplies tiles; a
// barrier must follow.
__device__ __forceinline__ void publish_tiles() {
#ifdef __CUDACC__
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// --- products of a warp group: 64 rows of a, N columns of b, 16 deep ---

// The compiler moves no use of the sums past this.
template <int kSums>
__device__ __forceinline__ void pin([[maybe_unused]] float (&sums)[kSums]) {
#ifdef __CUDACC__
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(sums[i])::"memory");
#endif
}
// Before the products of a group: what the threads have put into the sums is in their registers.
template <int kSums>
__device__ __forceinline__ void begin_products(float (&sums)[kSums] PINION_CALLER) {
  pin(sums);
#ifdef __CUDACC__
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  cudasim::begin_products(site);
#endif
}
// Ends a group of products.
__device__ __forceinline__ void commit_products() {
#ifdef __CUDACC__
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  cudasim::commit_products();
#endif
}
// Waits until at most N groups are under way. The sums may be read only when none is.
template <int N, int kSums>
__device__ __forceinline__ void wait_products(float (&sums)[kSums] PINION_CALLER) {
#ifdef __CUDACC__
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#else
  cudasim::wait_products(N, site);
#endif
  pin(sums);
}

#ifdef __CUDACC__
#define PINION_SUMS4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PINION_SUMS16(i) \
  PINION_SUMS4(i), PINION_SUMS4(i + 4), PINION_SUMS4(i + 8), PINION_SUMS4(i + 12)
#define PINION_SUMS32 PINION_SUMS16(0), PINION_SUMS16(16)
#define PINION_SUMS64 PINION_SUMS32, PINION_SUMS16(32), PINION_SUMS16(48)
#define PINION_NAMES32                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, " \
  "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, " \
  "%28, %29, %30, %31"
#define PINION_NAMES64                                                     \
  PINION_NAMES32                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, "    \
  "%45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, " \
  "%59, %60, %61, %62, %63"
// Behind the sums: both tiles, whether to add to what the sums are, the signs of a and b, and
// whether each is kAcross.
#define PINION_WGMMA(shape, type, names, operands, sums)                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned." shape \
               ".f32." type "." type " {" names "}, " operands ";\n}"                        \
               : sums                                                                        \
               : "l"(a), "l"(b), "n"(int{kAcrossA}), "n"(int{kAcrossB}))
#define PINION_WGMMA64(type) \
  PINION_WGMMA("m64n64k16", type, PINION_NAMES32, "%32, %33, p, 1, 1, %34, %35", PINION_SUMS32)
#define PINION_WGMMA128(type) \
  PINION_WGMMA("m64n128k16", type, PINION_NAMES64, "%64, %65, p, 1, 1, %66, %67", PINION_SUMS64)
#endif

// d += a b, of tiles by describe_tile(), 16 deep. T is BFloat16 or Half, N is 64 or 128. The lines
// of a tile run along the depth or (kAcross) across it, along rows of a or columns of b. With g =
// lane / 4 and t = lane % 4, a lane of warp w has of columns 8i + 2t and 8i + 2t + 1 row 16w + g in
// d[4i] and d[4i + 1], row 16w + g + 8 in d[4i + 2] and d[4i + 3].
template <class T, int N, bool kAcrossA, bool kAcrossB>
__device__ __forceinline__ void multiply_tiles(float (&d)[N / 2], uint64_t a,
                                               uint64_t b PINION_CALLER) {
  static_assert(sizeof(T) == 2 && (N == 64 || N == 128));
#ifdef __CUDACC__
  constexpr bool kBFloat = std::is_same_v<T, BFloat16>;
  if constexpr (N == 64 && kBFloat)
    PINION_WGMMA64("bf16");
  else if constexpr (N == 64)
    PINION_WGMMA64("f16");
  else if constexpr (kBFloat)
    PINION_WGMMA128("bf16");
  else
    PINION_WGMMA128("f16");
#else
  const auto widen = [](uint16_t bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return static_cast<float>(x);
  };
  cudasim::multiply_tiles({d, N, a, b, kAcrossA, kAcrossB, widen}, site);
#endif
}
#ifdef __CUDACC__
#undef PINION_SUMS4
#undef PINION_SUMS16
#undef PINION_SUMS32
#undef PINION_SUMS64
#undef PINION_NAMES32
#undef PINION_NAMES64
#undef PINION_WGMMA
#undef PINION_WGMMA64
#undef PINION_WGMMA128
#endif

}  // namespace pinion::kernels::cuda
