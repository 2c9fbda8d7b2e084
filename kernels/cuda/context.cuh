// SPDX-License-Identifier: Apache-2.0
// The context of CUDA kernels, and the check of CUDA runtime calls. The only header that a kernel
// file needs beside its own helpers.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>

#include "pinion/kernels/context.h"
#include "pinion/kernels/types.h"

namespace pinion {

namespace kernels::cuda {
class MemoryPool;  // kernels/cuda/memory_pool.h
class Staging;     // kernels/cuda/staging.h
class Workspace;   // kernels/cuda/workspace.h
}  // namespace kernels::cuda

struct CudaCounts {  // so far
  std::atomic<int64_t> launches{0}, waits{0}, replays{0};
  void count_launch();  // here, so that kernel files have no atomics of the host in them
  void count_replay();
};

struct CudaContext {
  int device;
  int capability;       // 90 is 9.0
  cudaStream_t stream;  // kernels of one device run in its order
  kernels::cuda::MemoryPool* memory;
  kernels::cuda::Staging* staging;
  kernels::cuda::Workspace* workspace;
  CudaCounts* counts;
};

namespace kernels::cuda {

// Throws Error (device; out_of_memory where that is the reason): "what: expected success, got …".
[[noreturn]] void fail_cuda(cudaError_t status, const char* what);

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) [[unlikely]]
    fail_cuda(status, what);
}

}  // namespace kernels::cuda
}  // namespace pinion
