// SPDX-License-Identifier: Apache-2.0
// What the runtime asks of the CUDA backend: devices, memory and copies. Free of CUDA headers, so
// that a file that includes it compiles without them; the definitions exist in builds with CUDA.
#pragma once

#include <cstdint>

#include "pinion/kernels/context.h"

namespace pinion::cuda_backend {

// The number of usable devices; 0 where the driver is missing, too old, or sees no device.
int device_count();

// The context of device `index`, made on the first call and kept; makes it the calling thread's
// current device. Throws Error (device) without a driver, without a device, or with no such index.
const CudaContext& context(int index);

// The compute capability of device `index`: 90 is 9.0.
int capability(int index);

// Null when the device is out of memory; throws Error (device) for anything else. Zero bytes give a
// valid pointer. Frees and copies wait for the device's stream, so a block may be released, and its
// contents read, as soon as the kernels that use it are launched.
void* allocate(int index, int64_t bytes);
void release(int index, void* data, int64_t bytes) noexcept;
// Host to device, device to host, or between devices; `index` is a device that takes part. Throws
// Error (internal) if a kernel launched before met an index outside its range.
void copy(int index, void* dst, const void* src, int64_t bytes);

}  // namespace pinion::cuda_backend
