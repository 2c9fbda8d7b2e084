// SPDX-License-Identifier: Apache-2.0
// What a stand-in for a library needs of the simulated runtime when several threads of the host
// call it, each with a device, and their streams wait for each other.
#pragma once

#include <functional>
#include <mutex>

#include "cuda_runtime_api.h"

namespace cudasim {

int current_device();  // of this thread
// The stream goes on once `until` says so, which other threads of the host bring about.
void enqueue_wait_for_others(cudaStream_t stream, std::function<bool()> until);
// Whoever does work of streams holds this, so that no other mutex is needed beside it.
std::unique_lock<std::recursive_mutex> lock_runtime();

}  // namespace cudasim
