// SPDX-License-Identifier: Apache-2.0
// What kernels of one device need beside their arguments: scratch memory, a counter of blocks that
// have arrived, and a place to say that an index was wrong. All of it relies on the order of the
// device's one stream: a block of scratch that is given back is written next by a later kernel.
#pragma once

#include <mutex>
#include <vector>

#include "pinion/kernels/cuda/context.cuh"

namespace pinion::kernels::cuda {

// The first index outside its range that a kernel met, written by the device into memory of the
// host and read by whoever waits for the stream.
struct WrongIndex {
  uint32_t found;
  const char* who;  // a literal of the program, which the device hands back unread
  int64_t got, extent;
};

class Workspace {
 public:
  explicit Workspace(cudaStream_t stream);  // of the current device
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Counts the blocks of one launch; 0 before and after it.
  uint32_t* arrivals() const { return arrivals_; }
  WrongIndex* wrong_index() const { return wrong_index_; }
  // Throws Error (internal) if a kernel has met one since the last call; call it after a wait.
  void check_indices();

 private:
  friend class Scratch;
  struct Block {
    void* data;
    int64_t bytes;
  };
  Block take(int64_t bytes);
  void give_back(const Block& block);

  uint32_t* arrivals_ = nullptr;
  WrongIndex* wrong_index_ = nullptr;
  std::mutex mutex_;
  std::vector<Block> free_;
};

// Device memory for the kernels launched during the object's life; contents are arbitrary. Throws
// Error (out_of_memory).
class Scratch {
 public:
  Scratch(const CudaContext& ctx, int64_t bytes)
      : workspace_(*ctx.workspace), block_(workspace_.take(bytes)) {}
  ~Scratch() { workspace_.give_back(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(block_.data);
  }

 private:
  Workspace& workspace_;
  const Workspace::Block block_;
};

}  // namespace pinion::kernels::cuda
