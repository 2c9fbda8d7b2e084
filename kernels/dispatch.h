// SPDX-License-Identifier: Apache-2.0
// What one line of kernels.h declares: the CPU definitions, one per rung of the ISA ladder, the
// CUDA definition, and a callable of that name which picks by the type of the context and, on the
// CPU, by its rung.
#pragma once

#include "pinion/kernels/arguments.h"
#include "pinion/kernels/context.h"

namespace pinion {
namespace kernels {

template <class Signature>
struct Kernel;

template <class... Args>
struct Kernel<void(Args...)> {
  void (*cpu[3])(const CpuContext&, Args...);  // scalar, avx2, avx512
#ifdef PINION_WITH_CUDA
  void (*cuda)(const CudaContext&, Args...);
  void operator()(const CudaContext& ctx, Args... args) const { cuda(ctx, args...); }
#endif
  void operator()(const CpuContext& ctx, const Args&... args) const {
    cpu[ctx.isa < Isa::avx512 ? static_cast<int>(ctx.isa) : 2](ctx, args...);
  }
};

}  // namespace kernels
}  // namespace pinion

#if defined(__x86_64__)
#define PINION_RUNGS(name) \
  { rung_scalar::name, rung_avx2::name, rung_avx512::name }
#else
#define PINION_RUNGS(name) \
  { rung_scalar::name, rung_scalar::name, rung_scalar::name }
#endif
#ifdef PINION_WITH_CUDA
#define PINION_CUDA_ENTRY(name) , cuda::name
#else
#define PINION_CUDA_ENTRY(name)
#endif
