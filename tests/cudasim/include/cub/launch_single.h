// SPDX-License-Identifier: Apache-2.0
// What the stand-ins for CUB share: a launch of one thread, and the call that asks for memory.
#pragma once

#include "../cuda_runtime.h"

namespace cub::detail {

// Without storage, a call says how many bytes it wants and does nothing else.
inline bool only_asks(const void* storage, size_t& bytes, size_t needed) {
  if (storage) return false;
  bytes = needed;
  return true;
}

template <class... P>
cudaError_t launch_single(cudaStream_t stream, void (*kernel)(P...), std::type_identity_t<P>... p) {
  cudaLaunchConfig_t config{};
  config.gridDim = config.blockDim = dim3(1);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, p...);
}

}  // namespace cub::detail
