// SPDX-License-Identifier: Apache-2.0
// The CUDA definition of every kernel that has no .cu file yet: it throws Error (device). Each line
// of kernels.h is read a second time here, so the list cannot fall behind.
#include "pinion/kernels/check.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

[[noreturn]] void fail_pending(const char* name) {
  fail(ErrorKind::device, {name,
                           ": expected a CUDA kernel, but this version of Pinion computes it "
                           "on the CPU only; use the cpu device"});
}

}  // namespace
}  // namespace pinion::kernels::cuda

#pragma GCC diagnostic ignored "-Wunused-parameter"  // the list names every argument
#define PINION_KERNEL(name, ...)                                      \
  namespace cuda {                                                    \
  void name(const CudaContext&, __VA_ARGS__) { fail_pending(#name); } \
  }
#include "pinion/kernels/kernels.h"  // NOLINT: the second reading
