// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/memory_pool.h"

#include <algorithm>

namespace pinion::kernels::cuda {
namespace {

thread_local RecordedMemory* recording = nullptr;  // of this thread

// A thread that records a step may not ask the device for memory, unless it says that this is not
// part of the step.
class OutsideOfRecordings {
 public:
  OutsideOfRecordings() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~OutsideOfRecordings() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  OutsideOfRecordings(const OutsideOfRecordings&) = delete;
  OutsideOfRecordings& operator=(const OutsideOfRecordings&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// What a block counts in the books, whether it was made for its class or for its size alone.
int64_t class_bytes(int64_t bytes) {
  return static_cast<int64_t>(bytes_of_size_class(size_class_of(static_cast<size_t>(bytes))));
}

}  // namespace

void* MemoryPool::from_device(int64_t bytes) {
  check(cudaSetDevice(device_), "cudaSetDevice");
  const OutsideOfRecordings outside;
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  device_calls_.fetch_add(1, std::memory_order_relaxed);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // the caller reports it: nobody else should meet it
    return nullptr;
  }
  check(status, "cudaMalloc");
  reserved_.fetch_add(class_bytes(bytes), std::memory_order_relaxed);
  return data;
}

// cudaFree waits for the device.
void MemoryPool::to_device(void* data, int64_t bytes) noexcept {
  const OutsideOfRecordings outside;
  device_calls_.fetch_add(1, std::memory_order_relaxed);
  reserved_.fetch_sub(class_bytes(bytes), std::memory_order_relaxed);
  if (cudaSetDevice(device_) == cudaSuccess) (void)cudaFree(data);
}

void* MemoryPool::take_cached(int size_class, Lists& lists) {
  const std::lock_guard lock(mutex_);
  std::vector<void*>& list = lists[static_cast<size_t>(size_class)];
  if (list.empty()) return nullptr;
  void* data = list.back();
  list.pop_back();
  return data;
}

void* MemoryPool::take(int64_t bytes) {
  const int size_class = size_class_of(static_cast<size_t>(bytes));
  if (size_class >= kSizeClasses) return nullptr;
  RecordedMemory* recorded = recording && &recording->pool_ == this ? recording : nullptr;
  const bool cached = caching_ || recorded;
  if (cached)
    if (void* data = take_cached(size_class, recorded ? recorded->free_ : free_)) return data;
  const int64_t size = cached ? class_bytes(bytes) : bytes;
  void* data = from_device(size);
  if (!data && !recorded) {  // trim() waits for the device, which a recording must not
    trim();
    data = from_device(size);
  }
  if (data && recorded) {
    const std::lock_guard lock(mutex_);
    recorded_.emplace(data, recorded);
  }
  return data;
}

void MemoryPool::give_back(void* data, int64_t bytes) noexcept {
  const auto at = static_cast<size_t>(size_class_of(static_cast<size_t>(bytes)));
  {
    const std::lock_guard lock(mutex_);
    if (!recorded_.empty()) {
      const auto owned = recorded_.find(data);
      if (owned != recorded_.end()) return owned->second->free_[at].push_back(data);
    }
    // A block of the pool that the recorded step releases: replays use it, so nobody else may.
    if (recording && &recording->pool_ == this) {
      recording->keep(data, bytes);
      return;
    }
    if (caching_) return free_[at].push_back(data);
  }
  to_device(data, bytes);
}

void MemoryPool::trim() noexcept {
  const std::lock_guard lock(mutex_);
  for (int c = 0; c < kSizeClasses; ++c) {
    for (void* data : free_[static_cast<size_t>(c)])
      to_device(data, static_cast<int64_t>(bytes_of_size_class(c)));
    free_[static_cast<size_t>(c)].clear();
  }
}

RecordedMemory::~RecordedMemory() {
  std::unique_lock lock(pool_.mutex_);
  std::erase_if(pool_.recorded_, [&](const auto& block) { return block.second == this; });
  lock.unlock();
  // Blocks of a recording have the sizes of their classes.
  for (int c = 0; c < kSizeClasses; ++c)
    for (void* data : free_[static_cast<size_t>(c)])
      pool_.give_back(data, static_cast<int64_t>(bytes_of_size_class(c)));
  for (const Kept& block : kept_) pool_.give_back(block.data, block.bytes);
}

void RecordedMemory::begin() {
  PINION_CHECK(!recording, "record: expected one recording at a time in a thread");
  recording = this;
}
void RecordedMemory::end() { recording = nullptr; }

}  // namespace pinion::kernels::cuda
