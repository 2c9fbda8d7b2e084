// SPDX-License-Identifier: Apache-2.0
// The CUDA definitions of kernels that have none in a .cu file yet: they throw Error (device). Each
// line of kernels.h is read a second time here; those named below get their definition from it. A
// kernel that is neither named here nor written does not link.
#include "pinion/kernels/check.h"
#include "pinion/kernels/kernels.h"

// One line per kernel that waits to be written: who writes it deletes its line.
#define PINION_PENDING_fused_mlp_train ~,
#define PINION_PENDING_fused_mlp_forward ~,

namespace pinion::kernels::cuda {
namespace {

[[noreturn]] void fail_pending(const char* name) {
  fail(ErrorKind::device, {name,
                           ": expected a CUDA kernel, but this version of Pinion computes it "
                           "on the CPU only; use the cpu device"});
}

}  // namespace
}  // namespace pinion::kernels::cuda

// A name's macro above brings a comma, which makes DEFINE the second of the arguments.
#define PINION_SECOND(first, second, ...) second
#define PINION_EITHER(...) PINION_SECOND(__VA_ARGS__, )
#define PINION_DEFINE(name, ...)                                      \
  namespace cuda {                                                    \
  void name(const CudaContext&, __VA_ARGS__) { fail_pending(#name); } \
  }
#define PINION_SKIP(name, ...)

#pragma GCC diagnostic ignored "-Wunused-parameter"  // the list names every argument
#define PINION_KERNEL(name, ...) \
  PINION_EITHER(PINION_PENDING_##name PINION_DEFINE, PINION_SKIP)(name, __VA_ARGS__)
#include "pinion/kernels/kernels.h"  // NOLINT: the second reading
