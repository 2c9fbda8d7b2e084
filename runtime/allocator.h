// SPDX-License-Identifier: Apache-2.0
// The caching allocator behind every tensor, and its books: bytes live and at peak, per device and
// tag. Memory comes back to the cache, not to the system; trim() returns it. Safe from any thread.
#pragma once

#include <cstdint>

#include "pinion/runtime/device.h"

namespace pinion {

// What memory is for. New tensors take the calling thread's current tag.
enum class MemoryTag : uint8_t { other, parameters, gradients, optimizer, activations, data };
inline constexpr int kMemoryTags = 6;
const char* name_of(MemoryTag tag);

class MemoryTagScope {
 public:
  explicit MemoryTagScope(MemoryTag tag);
  ~MemoryTagScope();
  MemoryTagScope(const MemoryTagScope&) = delete;
  MemoryTagScope& operator=(const MemoryTagScope&) = delete;
  static MemoryTag current();

 private:
  MemoryTag previous_;
};

// A block of at least `bytes` bytes, aligned to 64; `tag` is only for the books. Zero bytes give a
// valid pointer. Throws Error (out_of_memory) that names the bytes asked for, live and at peak.
void* allocate(Device device, int64_t bytes, MemoryTag tag);
void release(Device device, void* data, int64_t bytes, MemoryTag tag) noexcept;

// The same on the CPU with `header` more bytes in front of the block, which the books leave out.
void* allocate_with_header(int64_t header, int64_t bytes, MemoryTag tag);
void release_with_header(void* block, int64_t header, int64_t bytes, MemoryTag tag) noexcept;

// Adds to the books what somebody else allocated, or released when negative.
void count_foreign(Device device, int64_t bytes, MemoryTag tag) noexcept;

struct MemoryStats {
  int64_t live = 0;          // bytes in tensors now
  int64_t peak = 0;          // the most there were since the last reset_peak()
  int64_t reserved = 0;      // bytes taken from the system and not returned (all tags together)
  int64_t system_calls = 0;  // how often the system was asked, all tags together
};
// Live is exact for the calling thread's own allocations; other threads post theirs in steps of at
// most 64 KiB, which bounds the error of peak as well.
MemoryStats memory_stats(Device device);
MemoryStats memory_stats(Device device, MemoryTag tag);
void reset_peak(Device device);
void trim(Device device);  // returns cached memory to the system

// Blocks for small host objects (handles, nodes, closures) from the same thread-local free lists;
// they are not in the books.
void* allocate_small(size_t bytes);
void release_small(void* block, size_t bytes) noexcept;

}  // namespace pinion
