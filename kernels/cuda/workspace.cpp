// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/workspace.h"

#include <utility>

#include "pinion/kernels/lookup.h"

namespace pinion::kernels::cuda {

Workspace::Workspace(cudaStream_t stream) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, sizeof *arrivals_), "cudaMalloc");
  arrivals_ = static_cast<uint32_t*>(memory);
  check(cudaMemsetAsync(arrivals_, 0, sizeof *arrivals_, stream), "cudaMemsetAsync");
  check(cudaMallocHost(&memory, sizeof *wrong_index_), "cudaMallocHost");
  wrong_index_ = new (memory) WrongIndex{};
}

void Workspace::check_indices() {
  if (std::exchange(wrong_index_->found, 0) == 0) return;
  fail_lookup(wrong_index_->who, wrong_index_->got, wrong_index_->extent);
}

Scratch::Scratch(const CudaContext& ctx, int64_t bytes)
    : memory_(*ctx.memory), bytes_(bytes), data_(memory_.take(bytes)) {
  PINION_REQUIRE(out_of_memory, data_,
                 "scratch memory of a kernel: the device is out of memory: asked for ", bytes,
                 " bytes, ", memory_.reserved(), " reserved");
}

}  // namespace pinion::kernels::cuda
