// SPDX-License-Identifier: Apache-2.0
// What the runtime asks of the CUDA backend: devices, memory and copies. Free of CUDA headers, so
// that a file that includes it compiles without them; the definitions exist in builds with CUDA.
#pragma once

#include <cstdint>

#include "pinion/kernels/context.h"

namespace pinion::kernels::cuda {
class Recording;
}

namespace pinion::cuda_backend {

// The number of usable devices; 0 where the driver is missing, too old, or sees no device.
int device_count();

// The context of device `index`, made on the first call and kept; makes it the calling thread's
// current device. Throws Error (device) without a driver, without a device, or with no such index.
const CudaContext& context(int index);

// The compute capability of device `index`: 90 is 9.0.
int capability(int index);

// Null when the device is out of memory; throws Error (device) for anything else. Zero bytes give a
// valid pointer. A block may be released as soon as the kernels that use it are launched; it is
// kept for the next request of its size. trim() gives what is kept back to the device, and waits
// for it.
void* allocate(int index, int64_t bytes);
void release(int index, void* data, int64_t bytes) noexcept;
void trim(int index) noexcept;
int64_t free_bytes(int index);  // that other programs, and this one, could still take

// Copies from device `from` to device `to`, one of which may be kHost, in the order of the work of
// both. A copy to the host waits for the kernels launched before and throws Error (internal) if one
// of them met an index outside its range. The others do not wait; `src` on the host may be changed
// as soon as a copy returns.
inline constexpr int kHost = -1;
void copy(int to, void* dst, int from, const void* src, int64_t bytes);
void synchronize(int index);  // waits, and throws, as a copy to the host does

// What this process did so far on a device: a steady loop of recorded steps launches and replays,
// and does nothing else.
struct Activity {
  int64_t device_calls = 0;  // requests for memory, and returns of it
  int64_t waits = 0;         // of the host for the device
  int64_t launches = 0;      // of kernels, recorded ones included
  int64_t replays = 0;       // of recorded steps
  int64_t reserved = 0;      // bytes of device memory held now, in use or kept
};
Activity activity(int index);

// A point in the order of the device's work, and the time at which the device reached it.
class Mark;
Mark* make_mark(int index);
void destroy(Mark* mark) noexcept;
void place(Mark* mark);  // behind what was launched so far
bool reached(Mark* mark);
void wait(Mark* mark);
double milliseconds_between(Mark* from, Mark* to);  // waits for both

// What this thread launches between begin and end is recorded and not run; replay() runs it. Other
// threads must leave the device alone meanwhile. A copy from or to the host throws Error (internal)
// there. abandon() is for a step that failed, and destroys the recording.
using kernels::cuda::Recording;  // kernels/cuda/recording.h
Recording* begin_recording(int index);
void end_recording(Recording* recording);
void abandon(Recording* recording) noexcept;
void replay(const Recording* recording);
void destroy(Recording* recording) noexcept;

}  // namespace pinion::cuda_backend
