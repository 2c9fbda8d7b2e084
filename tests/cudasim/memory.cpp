// SPDX-License-Identifier: Apache-2.0
// Device memory, and how the end of every block of memory is watched: by the address sanitizer, or
// by bytes behind it that must stay as they are. Both are NaN until written, so that a result made
// from what nobody wrote shows.
#include <cstdlib>
#include <cstring>
#include <new>

#include "machine.h"

namespace cudasim {
namespace {

constexpr size_t kDeviceAlignment = 256;  // what cudaMalloc gives
constexpr unsigned char kFresh = 0xFF;    // NaN to every floating type
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kWatched = 0;  // the sanitizer's own red zone follows
#else
constexpr size_t kWatched = 256;
#endif

using Allocations = std::map<const char*, std::unique_ptr<GuardedMemory>>;
Allocations& allocations() {
  static auto* const all = new Allocations;  // tensors in static storage are released late
  return *all;
}

}  // namespace

GuardedMemory::GuardedMemory(size_t bytes, size_t alignment, Space space) : bytes_(bytes) {
  void* data = nullptr;
  const size_t least = alignment < sizeof(void*) ? sizeof(void*) : alignment;
  if (posix_memalign(&data, least, bytes + kWatched ? bytes + kWatched : 1) != 0)
    throw std::bad_alloc();
  data_ = static_cast<char*>(data);
  std::memset(data_, kFresh, bytes + kWatched);
  if (watcher) watcher->memory(data_, bytes, space);
}
GuardedMemory::~GuardedMemory() {
  if (watcher) watcher->memory_gone(data_);
  std::free(data_);
}

bool GuardedMemory::end_is_intact() const {
  for (size_t i = bytes_; i < bytes_ + kWatched; ++i)
    if (static_cast<unsigned char>(data_[i]) != kFresh) return false;
  return true;
}
void GuardedMemory::mend_end() { std::memset(data_ + bytes_, kFresh, kWatched); }

void* allocate_device(size_t bytes) {
  auto memory = std::make_unique<GuardedMemory>(bytes, kDeviceAlignment, Space::device);
  void* data = memory->data();
  allocations().emplace(memory->data(), std::move(memory));
  return data;
}

void free_device(void* data) {
  if (!data) return;
  if (allocations().erase(static_cast<char*>(data)) == 0)
    fail(Fault::pointer, "free: this is no device memory, or was freed before", {});
}

bool is_device_memory(const void* p, size_t bytes) {
  const auto* at = static_cast<const char*>(p);
  auto after = allocations().upper_bound(at);
  if (after == allocations().begin()) return false;
  const GuardedMemory& memory = *std::prev(after)->second;
  return at + bytes <= memory.data() + memory.bytes();
}

size_t live_allocations() { return allocations().size(); }

void check_device_ends(Site site) {
  for (const auto& [data, memory] : allocations()) {
    if (memory->end_is_intact()) continue;
    memory->mend_end();
    fail(Fault::bounds,
         "something wrote past the end of a device allocation of " +
             std::to_string(memory->bytes()) + " bytes",
         site);
  }
}

void Call::check_argument(const void* pointer) {
  if (pointer && !is_device_memory(pointer, 0))
    fail(Fault::pointer, "launch: an argument is no pointer to device memory", {});
}

void check_alignment(const void* p, size_t alignment, Site site) {
  const InSimulator guard;
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0)
    fail(Fault::alignment,
         "an access of " + std::to_string(alignment) + " bytes is not on their boundary", site);
}

void touch_pack(const void* p, size_t bytes, bool writes, Site site) {
  const InSimulator guard;
  check_alignment(p, bytes, site);
  if (watcher && machine.stacks.owner(p) < 0)
    watcher->access(p, bytes, writes ? AccessKind::write : AccessKind::read, site);
}

}  // namespace cudasim
