// SPDX-License-Identifier: Apache-2.0
// cuBLASLt's functions in use, as a table that is filled on first use.
#pragma once

#include <cublasLt.h>

#include "pinion/kernels/cuda/library.h"

namespace pinion::kernels::cuda {

#define PINION_CUBLASLT_FUNCTIONS(F) \
  F(Create)                          \
  F(GetVersion)                      \
  F(GetStatusName)                   \
  F(MatmulDescCreate)                \
  F(MatmulDescDestroy)               \
  F(MatmulDescSetAttribute)          \
  F(MatrixLayoutCreate)              \
  F(MatrixLayoutDestroy)             \
  F(MatrixLayoutSetAttribute)        \
  F(MatmulPreferenceCreate)          \
  F(MatmulPreferenceDestroy)         \
  F(MatmulPreferenceSetAttribute)    \
  F(MatmulAlgoGetHeuristic)          \
  F(Matmul)

struct CublasLt {
#define PINION_FUNCTION(name) decltype(&::cublasLt##name) name = nullptr;
  PINION_CUBLASLT_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
  std::string path;

  // Throws Error (device) for a library that is missing, incomplete or of another major version.
  static CublasLt open(const LibraryName& name);
};

// The process's table, opened on the first call; throws Error (device) as open() does.
const CublasLt& cublaslt();

}  // namespace pinion::kernels::cuda
