// SPDX-License-Identifier: Apache-2.0
// The context of CUDA kernels, and the check of CUDA runtime calls. The only header that a kernel
// file needs beside its own helpers.
#pragma once

#include <cuda_runtime_api.h>

#include "pinion/kernels/context.h"
#include "pinion/kernels/types.h"

namespace pinion {

namespace kernels::cuda {
class Workspace;  // kernels/cuda/workspace.h
}

struct CudaContext {
  int device;
  int capability;       // 90 is 9.0
  cudaStream_t stream;  // kernels of one device run in its order
  kernels::cuda::Workspace* workspace;
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
