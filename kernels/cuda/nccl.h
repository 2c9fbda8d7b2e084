// SPDX-License-Identifier: Apache-2.0
// NCCL's functions for process groups, as a table that is filled on first use.
#pragma once

#include <nccl.h>

#include "pinion/kernels/cuda/library.h"

namespace pinion::kernels::cuda {

#define PINION_NCCL_FUNCTIONS(F) \
  F(GetVersion)                  \
  F(GetErrorString)              \
  F(GetLastError)                \
  F(GetUniqueId)                 \
  F(CommInitRankConfig)          \
  F(CommFinalize)                \
  F(CommDestroy)                 \
  F(CommAbort)                   \
  F(CommGetAsyncError)           \
  F(AllReduce)                   \
  F(ReduceScatter)               \
  F(AllGather)                   \
  F(Broadcast)                   \
  F(Send)                        \
  F(Recv)                        \
  F(GroupStart)                  \
  F(GroupEnd)

struct Nccl {
#define PINION_FUNCTION(name) decltype(&::nccl##name) name = nullptr;
  PINION_NCCL_FUNCTIONS(PINION_FUNCTION)
#undef PINION_FUNCTION
  std::string path;
  int version = 0;  // as NCCL counts: 22809 is 2.28.9

  // Throws Error (device) for a library that is missing, incomplete or of another major version.
  static Nccl open(const LibraryName& name);
};

// The process's table, opened on the first call; throws Error (device) as open() does.
const Nccl& nccl();

}  // namespace pinion::kernels::cuda
