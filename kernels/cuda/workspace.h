// SPDX-License-Identifier: Apache-2.0
// What kernels of one device need beside their arguments: scratch memory, a counter of blocks that
// have arrived, and a place to say that an index was wrong. All of it relies on the order of the
// device's one stream: a block of scratch that is given back is written next by a later kernel.
#pragma once

#include "pinion/kernels/cuda/memory_pool.h"

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
  uint32_t* arrivals_ = nullptr;
  WrongIndex* wrong_index_ = nullptr;
};

// Device memory for the kernels launched during the object's life; contents are arbitrary. Throws
// Error (out_of_memory).
class Scratch {
 public:
  Scratch(const CudaContext& ctx, int64_t bytes);
  ~Scratch() { memory_.give_back(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  MemoryPool& memory_;
  const int64_t bytes_;
  void* const data_;
};

}  // namespace pinion::kernels::cuda
