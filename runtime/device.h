// SPDX-License-Identifier: Apache-2.0
// Devices, and the one function that turns a Device into a kernel context.
#pragma once

#include <string>
#include <string_view>

#include "pinion/kernels/context.h"
#include "pinion/kernels/types.h"

namespace pinion {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
  std::string name() const;  // "cpu", "cuda:1"
};

// "cpu", "cuda", "cuda:1", or "auto" (cuda:0 where there is one, else the CPU). Throws Error
// (usage) for other text and Error (device) for a device that this build or machine does not have.
Device parse_device(std::string_view text);

int cuda_device_count();  // 0 without a driver, without a device, or in a build without CUDA

// The calling thread's CPU context: by default one pool of PINION_NUM_THREADS threads (default: the
// CPUs this process may run on) shared by the process, on the best rung that the CPU has, or the
// one that PINION_CPU_ISA (scalar|avx2|avx512|amx) names.
const CpuContext& cpu_context();
const CudaContext& cuda_context(int index);  // throws Error (device) where there is none

// Makes `threads` and `isa` the calling thread's context while it lives: tests and thread ranks.
class CpuContextGuard {
 public:
  CpuContextGuard(int threads, Isa isa);
  explicit CpuContextGuard(int threads);
  ~CpuContextGuard();
  CpuContextGuard(const CpuContextGuard&) = delete;
  CpuContextGuard& operator=(const CpuContextGuard&) = delete;

 private:
  CpuContext context_;
  const CpuContext* previous_;
};

Isa best_isa();  // the highest rung that this CPU and operating system can run
const char* name_of(Isa isa);

// Copies bytes between blocks on any two devices. A copy to the host waits for the device's work so
// far; from the host it does not wait, and `src` may be changed as soon as it returns.
void copy(Device to, void* dst, Device from, const void* src, int64_t bytes);

// Waits for the device's work so far, and throws what it met; on the CPU there is nothing to do.
void synchronize(Device device);

[[noreturn]] void fail_no_cuda();

// Runs f with the context of d: on(x.device(), [&](auto& ctx) { kernels::fill(ctx, x.mut(), 0); });
template <class F>
PINION_INLINE decltype(auto) on(Device d, F&& f) {
  if (d.kind == Device::Kind::cuda) [[unlikely]] {
#ifdef PINION_WITH_CUDA
    return f(cuda_context(d.index));
#else
    fail_no_cuda();
#endif
  }
  return f(cpu_context());
}

}  // namespace pinion
