// SPDX-License-Identifier: Apache-2.0
// Stand-in for the CUDA header of this name: asynchronous copies from global to shared memory.
#pragma once

#include "../device_calls.h"

inline void __pipeline_memcpy_async(void* shared, const void* global, size_t bytes,
                                    size_t zeros = 0, cudasim::Site site = cudasim::Site::here()) {
  cudasim::copy_async(shared, global, bytes, zeros, site);
}
inline void __pipeline_commit() { cudasim::commit_copies(); }
inline void __pipeline_wait_prior(size_t may_remain) {
  cudasim::wait_copies(static_cast<int>(may_remain));
}
