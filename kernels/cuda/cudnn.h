// SPDX-License-Identifier: Apache-2.0
// cuDNN's functions in use, as a table that is filled on first use. libcudnn.so passes calls on to
// parts of it, which must lie in the same folder.
#pragma once

#include <cudnn.h>

#include "pinion/kernels/cuda/library.h"

namespace pinion::kernels::cuda {

#define PINION_CUDNN_FUNCTIONS(F) \
  F(GetVersion)                   \
  F(GetErrorString)               \
  F(GetLastErrorString)           \
  F(GraphVersionCheck)            \
  F(Create)                       \
  F(SetStream)                    \
  F(BackendCreateDescriptor)      \
  F(BackendDestroyDescriptor)     \
  F(BackendSetAttribute)          \
  F(BackendGetAttribute)          \
  F(BackendFinalize)              \
  F(BackendExecute)

struct Cudnn {
#define PINION_FUNCTION(name) decltype(&::cudnn##name) name = nullptr;
  PINION_CUDNN_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
  std::string path;

  // Throws Error (device) for a library that is missing, incomplete or of another major version.
  static Cudnn open(const LibraryName& name);
  // Throws Error (device), or out_of_memory where that is the reason.
  void check(cudnnStatus_t status, const char* what) const {
    if (status != CUDNN_STATUS_SUCCESS) [[unlikely]]
      fail_status(status, what);
  }

 private:
  [[noreturn]] void fail_status(cudnnStatus_t status, const char* what) const;
};

// The process's table, opened on the first call; throws Error (device) as open() does.
const Cudnn& cudnn();

}  // namespace pinion::kernels::cuda
