// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/workspace.h"

#include <algorithm>
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

// The smallest free block that holds it, else a new one. Sizes are powers of two, so that few
// blocks serve all kernels of a program.
Workspace::Block Workspace::take(int64_t bytes) {
  int64_t size = 64 << 10;
  while (size < bytes) size *= 2;
  const std::lock_guard lock(mutex_);
  const auto fits = [&](const Block& b) { return b.bytes == size; };
  if (const auto at = std::find_if(free_.begin(), free_.end(), fits); at != free_.end()) {
    const Block block = *at;
    free_.erase(at);
    return block;
  }
  Block block{nullptr, size};
  free_.reserve(free_.size() + 1);
  check(cudaMalloc(&block.data, static_cast<size_t>(size)), "scratch memory of a kernel");
  return block;
}

void Workspace::give_back(const Block& block) {
  const std::lock_guard lock(mutex_);
  free_.push_back(block);
}

}  // namespace pinion::kernels::cuda
