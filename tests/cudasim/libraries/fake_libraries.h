// SPDX-License-Identifier: Apache-2.0
// Stand-ins for NVIDIA's libraries, over simulated streams: they check what they are called with,
// and compute on the host when the stream gets there. What tests set and count of them.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_runtime_api.h"
#include "pinion/kernels/types.h"

namespace cudasim {

struct FakeLibraries {
  bool cublaslt = true;   // whether it is there; asked once in a process
  int products = 0;       // launched
  int product_plans = 0;  // heuristics asked
  int convolutions = 0, convolution_plans = 0;
  bool refuse_convolutions = false;  // no engine, which is success with a count of 0
  bool refuse_products = false;
  int nccl_polls = 2;       // how often a call of NCCL says ncclInProgress before it is through
  int nccl_lost_rank = -1;  // its streams stand still, and the other ranks hear ncclRemoteError
  std::string wrong;        // what the last call that was refused did wrong
};
FakeLibraries& fake_libraries();

// Element i of an array, widened; and the rounding store.
double load(pinion::DType t, const void* p, int64_t i);
void store(pinion::DType t, void* p, int64_t i, double value);

}  // namespace cudasim
