// SPDX-License-Identifier: Apache-2.0
// The part of the list of kernels (kernels/kernels.h) that sorts, scans and selects.
#pragma once

#include "pinion/kernels/kernels.h"

#define PINION_KERNEL(name, ...)              \
  namespace rung_scalar {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx2 {                       \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx512 {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace cuda {                            \
  void name(const CudaContext&, __VA_ARGS__); \
  }                                           \
  inline constexpr Kernel<void(__VA_ARGS__)> name{PINION_RUNGS(name) PINION_CUDA_ENTRY(name)};

namespace pinion::kernels {

// clang-format off

// sorted = keys (i64 or i32) [n] in rising order, index (i64) [n] = where each was in keys; equal
// keys stay in their order. No block may overlap another.
PINION_KERNEL(sort_pairs, ConstView keys, View sorted, View index)
// y[i] = x[0] + ... + x[i - 1], i64
PINION_KERNEL(exclusive_scan, ConstView x, View y)
// The k largest of each row of x [rows,n] in falling order: y [rows,k], index (i64) [rows,k]; of
// equal ones that with the lowest index comes first, NaN before everything. k <= n.
PINION_KERNEL(top_k, ConstView x, View y, View index)

// clang-format on

}  // namespace pinion::kernels

#undef PINION_KERNEL
