// SPDX-License-Identifier: Apache-2.0
// Copies from the host to the device that do not make the host wait: through a ring of pinned
// buffers, from which the device copies in the order of its stream.
#pragma once

#include <array>
#include <mutex>

#include "pinion/kernels/cuda/context.cuh"

namespace pinion::kernels::cuda {

class Staging {
 public:
  explicit Staging(cudaStream_t stream) : stream_(stream) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // `src` may be changed as soon as this returns. Waits only when every buffer of the ring is still
  // to be copied from; returns how often it did.
  int64_t upload(void* dst, const void* src, int64_t bytes);

 private:
  static constexpr int64_t kBufferBytes = 1 << 20;
  struct Buffer {
    char* data = nullptr;
    cudaEvent_t copied = nullptr;  // recorded behind the buffer's last copy
  };

  const cudaStream_t stream_;
  std::mutex mutex_;
  std::array<Buffer, 4> ring_;
  size_t next_ = 0;
};

}  // namespace pinion::kernels::cuda
