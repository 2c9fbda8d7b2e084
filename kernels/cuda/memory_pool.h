// SPDX-License-Identifier: Apache-2.0
// The memory of one device: blocks that are released are kept for the next request of their size
// class. The device's kernels run in the order of its one stream, so a block may be released as
// soon as the kernels that use it are launched: whoever gets it next launches later.
#pragma once

#include <atomic>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/size_classes.h"

namespace pinion::kernels::cuda {

class RecordedMemory;

class MemoryPool {
 public:
  // Without caching, every block has the size asked for and goes back to the device at once, so
  // that compute-sanitizer and the simulator see its end: PINION_CUDA_CACHE=0.
  MemoryPool(int device, bool caching) : device_(device), caching_(caching) {}
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  ~MemoryPool() { trim(); }

  // Null when the device is out of memory, even after a trim. Aligned to 256 bytes.
  void* take(int64_t bytes);
  void give_back(void* data, int64_t bytes) noexcept;  // the bytes that were asked for
  void trim() noexcept;                                // free blocks go back to the device

  int64_t reserved() const { return reserved_; }          // bytes of the device held here
  int64_t device_calls() const { return device_calls_; }  // cudaMalloc and cudaFree so far

 private:
  friend class RecordedMemory;
  using Lists = std::vector<std::vector<void*>>;  // by size class

  void* from_device(int64_t bytes);
  void to_device(void* data, int64_t bytes) noexcept;
  void* take_cached(int size_class, Lists& lists);

  const int device_;
  const bool caching_;
  std::atomic<int64_t> reserved_{0}, device_calls_{0};
  std::mutex mutex_;  // of what follows
  Lists free_ = Lists(kSizeClasses);
  std::unordered_map<void*, RecordedMemory*> recorded_;  // blocks that belong to a recording
};

// The memory of one recorded step. What the step's thread takes while it is recorded comes from
// here and is used by nothing else as long as this lives, because every replay writes there again;
// within the recording, blocks that are released serve again. Blocks of the pool that are released
// during the recording stay here as well.
class RecordedMemory {
 public:
  explicit RecordedMemory(MemoryPool& pool) : pool_(pool) {}
  ~RecordedMemory();  // the device must be done with the recording
  RecordedMemory(const RecordedMemory&) = delete;
  RecordedMemory& operator=(const RecordedMemory&) = delete;

  // Between these, the calling thread's requests are served from here.
  void begin();
  void end();

 private:
  friend class MemoryPool;
  struct Kept {
    void* data;
    int64_t bytes;
  };
  void keep(void* data, int64_t bytes) { kept_.push_back({data, bytes}); }

  MemoryPool& pool_;
  MemoryPool::Lists free_ = MemoryPool::Lists(kSizeClasses);
  std::vector<Kept> kept_;
};

}  // namespace pinion::kernels::cuda
