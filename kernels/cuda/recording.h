// SPDX-License-Identifier: Apache-2.0
// A recorded step: the launches of one thread, kept as a CUDA graph and run again as one launch.
// What changes from one replay to the next stands in the device's memory: here the number of times
// that a stream of random numbers was used, elsewhere what optimizers count.
#pragma once

#include <vector>

#include "pinion/kernels/cuda/memory_pool.h"
#include "pinion/kernels/philox.h"

namespace pinion::kernels::cuda {

class Recording {
 public:
  explicit Recording(const CudaContext& ctx) : ctx_(ctx), memory_(*ctx.memory) {}
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void begin();    // from here on the thread's launches on the device are recorded and not run
  void finish();   // ends the recording; then it may be replayed
  void abandon();  // ends it after an error
  void replay() const;

  static Recording* current();  // of the calling thread; null outside of recordings
  // Where kernels find what to add to the step of this key: the replays times what one replay uses
  // of the key's stream.
  const uint64_t* steps_of(const PhiloxKey& key);

 private:
  static constexpr int kMostStreams = 4096;
  struct Stream {
    uint64_t seed, first, uses;
    uint32_t stream;
  };
  void count_steps();  // records the kernel that moves the streams on

  const CudaContext& ctx_;
  RecordedMemory memory_;
  std::vector<Stream> streams_;
  uint64_t* steps_ = nullptr;  // [kMostStreams] on the device, zero before the first replay
  cudaGraphExec_t exec_ = nullptr;
};

// The key of a kernel's random numbers, as a recorded kernel can follow it from replay to replay.
class ReplayedKey {
 public:
  ReplayedKey() = default;  // of nothing drawn
  explicit ReplayedKey(const PhiloxKey& key)
      : key_(key), more_(Recording::current() ? Recording::current()->steps_of(key) : nullptr) {}
  PINION_INLINE PhiloxKey now() const {  // on the device
    PhiloxKey key = key_;
    if (more_) key.step += *more_;
    return key;
  }

 private:
  PhiloxKey key_;
  const uint64_t* more_ = nullptr;  // in device memory; null outside of recordings
};

// Word `at` of four, without an index that is only known when the kernel runs.
PINION_INLINE uint32_t word_of(const Philox4& words, int at) {
  const uint32_t low = at & 1 ? words.v[1] : words.v[0];
  const uint32_t high = at & 1 ? words.v[3] : words.v[2];
  return at & 2 ? high : low;
}

}  // namespace pinion::kernels::cuda
