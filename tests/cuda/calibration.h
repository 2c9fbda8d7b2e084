// SPDX-License-Identifier: Apache-2.0
// The wrappers of device.cuh, mma.cuh and hopper.cuh, each in a kernel of its own over bits in
// device memory, for cuda_calibration_test.cpp. Words are of 32 bits.
#pragma once

#include <cstdint>

#include "pinion/kernels/context.h"

namespace pinion::calibration {

// One warp. Of each lane 10 words: a, b, c of multiply_add; 4 out.
void multiply_add(const CudaContext& ctx, bool bfloat, const uint32_t* in, uint32_t* out);
// One warp. 32 rows of 4 words, then the row whose address each lane gives; 4 words a lane out.
void load_matrices(const CudaContext& ctx, bool transpose, const uint32_t* in, uint32_t* out);
// One block of 64 threads, each copies 4 words if word 256 + thread is even.
void copy_async(const CudaContext& ctx, const uint32_t* in, uint32_t* out);

inline constexpr int kWarpResults = 14;
// One warp, 2 words a lane: a value and a choice; kWarpResults out.
void warp_operations(const CudaContext& ctx, const uint32_t* in, uint32_t* out);
// n floats to bfloat16 and half as bits, and the lower halves of the words from either to floats:
// 4 words each out.
void conversions(const CudaContext& ctx, int n, const uint32_t* in, uint32_t* out);

inline constexpr int kAtomicResults = 8;
// n threads over the results: add, max, min, and, or, xor, inc, cas. They hold what they start
// from.
void atomics(const CudaContext& ctx, int n, const uint32_t* in, uint32_t* results);

// --- devices of capability 9.0 (calibration_sm90a.cu) ---

// A box of 64 lines of 64 elements at (column, line, matrix) of matrices [2, 70, 88] as it lies in
// shared memory: 2048 words.
void load_tile(const CudaContext& ctx, int column, int line, int matrix, const void* in,
               uint32_t* out);
// One warp group: a is [64, 64] or, across, its transpose; b is [64, columns] or, across, not its
// transpose [columns, 64]. The sums as the threads have them, columns / 2 each.
void multiply_tiles(const CudaContext& ctx, bool bfloat, int columns, bool across_a, bool across_b,
                    const void* a, const void* b, float* sums);

}  // namespace pinion::calibration
