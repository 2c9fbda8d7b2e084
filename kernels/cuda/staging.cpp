// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace pinion::kernels::cuda {

int64_t Staging::upload(void* dst, const void* src, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  int64_t waits = 0;
  for (int64_t done = 0; done < bytes;) {
    Buffer& buffer = ring_[next_++ % ring_.size()];
    if (!buffer.data) {
      void* memory = nullptr;
      check(cudaMallocHost(&memory, kBufferBytes), "pinned memory for copies");
      buffer.data = static_cast<char*>(memory);
      check(cudaEventCreateWithFlags(&buffer.copied, cudaEventDisableTiming),
            "cudaEventCreateWithFlags");
    } else if (cudaEventQuery(buffer.copied) != cudaSuccess) {
      check(cudaEventSynchronize(buffer.copied), "cudaEventSynchronize");
      ++waits;
    }
    const int64_t part = std::min(bytes - done, kBufferBytes);
    std::memcpy(buffer.data, static_cast<const char*>(src) + done, static_cast<size_t>(part));
    check(cudaMemcpyAsync(static_cast<char*>(dst) + done, buffer.data, static_cast<size_t>(part),
                          cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    check(cudaEventRecord(buffer.copied, stream_), "cudaEventRecord");
    done += part;
  }
  return waits;
}

}  // namespace pinion::kernels::cuda
