// SPDX-License-Identifier: Apache-2.0
// Where a kernel runs. A context is the first argument of every kernel and selects its definition.
#pragma once

#include <cstdint>

namespace pinion {

namespace kernels {
class ThreadPool;  // kernels/cpu/parallel.h
}

// Rungs of the CPU ladder, each including those before it. amx differs from avx512 in GEMM only.
enum class Isa : uint8_t { scalar, avx2, avx512, amx };

struct CpuContext {
  kernels::ThreadPool* pool;  // never null; a pool of one thread runs everything in the caller
  Isa isa;
};

struct CudaContext;  // kernels/cuda/context.cuh: device, stream, library handles, scratch

}  // namespace pinion
