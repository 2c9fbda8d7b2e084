// SPDX-License-Identifier: Apache-2.0
// Size-class free lists, one set per thread over a central set. Blocks up to 32 KiB are carved from
// slabs; larger ones come one by one, those from 1 MiB on 2 MiB-aligned with huge pages asked for.
// Under AddressSanitizer nothing is cached, so that it sees every block's end and every late use.
#include "pinion/runtime/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "pinion/kernels/size_classes.h"

#ifdef PINION_WITH_CUDA
#include "pinion/kernels/cuda/backend.h"
#endif

namespace pinion {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaching = false;
#else
constexpr bool kCaching = true;
#endif

constexpr size_t kAlignment = 64;  // a cache line, and an AVX-512 register
constexpr size_t kSlabBytes = 512 << 10;
constexpr size_t kMaxSlabBlock = 32 << 10;     // larger blocks are taken from the system singly
constexpr size_t kMaxThreadBlock = 256 << 10;  // larger blocks skip the thread's own lists
constexpr size_t kThreadListBytes = 1 << 20;   // per class; beyond it half goes to the central list
constexpr size_t kHugeFrom = 1 << 20;          // blocks from this size on ask for huge pages
constexpr size_t kHugePage = 2 << 20;
constexpr int64_t kPostEvery = 64 << 10;

using kernels::bytes_of_size_class;
using kernels::kLinearSizeClasses;
using kernels::kSizeClasses;
using kernels::size_class_of;

struct Free {
  Free* next;
};

// The books of one device. Total is kept beside the tags because peaks do not add up.
struct Books {
  std::atomic<int64_t> live[kMemoryTags + 1] = {}, peak[kMemoryTags + 1] = {};
  std::atomic<int64_t> reserved{0}, system_calls{0};

  void post(int tag, int64_t delta) {
    for (const int at : {tag, kMemoryTags}) {
      const int64_t now = live[at].fetch_add(delta, std::memory_order_relaxed) + delta;
      int64_t seen = peak[at].load(std::memory_order_relaxed);
      while (now > seen && !peak[at].compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
      }
    }
  }
};
constexpr int kDevices = 17;  // the CPU and up to 16 CUDA devices
Books books[kDevices];
Books& books_of(Device d) { return books[d.kind == Device::Kind::cpu ? 0 : 1 + d.index % 16]; }

void* system_block(size_t bytes) {
  Books& b = books[0];
  void* p = nullptr;
  if (bytes >= kHugeFrom && kCaching) {
    const size_t span = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    p = std::aligned_alloc(kHugePage, span);
    if (p) madvise(p, span, MADV_HUGEPAGE);
  } else {
    p = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
  if (p) {
    b.reserved.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
    b.system_calls.fetch_add(1, std::memory_order_relaxed);
  }
  return p;
}

struct Central {
  std::mutex mutex;
  Free* lists[kSizeClasses] = {};
  char* slab = nullptr;
  size_t slab_left = 0;

  void* take(int cls) {
    const std::lock_guard lock(mutex);
    if (Free* block = lists[cls]) {
      lists[cls] = block->next;
      return block;
    }
    const size_t bytes = bytes_of_size_class(cls);
    if (bytes > kMaxSlabBlock) return system_block(bytes);
    if (slab_left < bytes) {
      slab = static_cast<char*>(system_block(kSlabBytes));
      slab_left = slab ? kSlabBytes : 0;
      if (!slab) return nullptr;
    }
    void* block = slab;
    slab += bytes, slab_left -= bytes;
    return block;
  }

  void put(int cls, Free* first, Free* last) {
    const std::lock_guard lock(mutex);
    last->next = lists[cls];
    lists[cls] = first;
  }

  void trim() {
    const std::lock_guard lock(mutex);
    for (int cls = size_class_of(kMaxSlabBlock) + 1; cls < kSizeClasses; ++cls)
      while (Free* block = lists[cls]) {
        lists[cls] = block->next;
        std::free(block);
        books[0].reserved.fetch_sub(static_cast<int64_t>(bytes_of_size_class(cls)),
                                    std::memory_order_relaxed);
      }
  }
};
// Never destroyed: tensors in static storage are released after everything else.
Central& central() {
  static Central* c = new Central;
  return *c;
}

struct Cache {
  struct List {
    Free* first = nullptr;
    size_t bytes = 0;
  };
  static constexpr int kThreadClasses = kLinearSizeClasses + 8 * 8;  // up to kMaxThreadBlock
  List lists[kThreadClasses];
  int64_t pending[kMemoryTags] = {};  // of the CPU's books, not posted yet

  void post(int tag) {
    if (pending[tag]) books[0].post(tag, std::exchange(pending[tag], 0));
  }
  void account(int tag, int64_t delta) {
    pending[tag] += delta;
    if (pending[tag] > kPostEvery || pending[tag] < -kPostEvery) post(tag);
  }
  void post_all() {
    for (int tag = 0; tag < kMemoryTags; ++tag) post(tag);
  }

  void give_back(int cls, size_t keep_bytes) {
    List& list = lists[cls];
    const size_t size = bytes_of_size_class(cls);
    if (list.bytes <= keep_bytes) return;
    Free *first = list.first, *last = first;
    list.bytes -= size;
    while (list.bytes > keep_bytes) last = last->next, list.bytes -= size;
    list.first = last->next;
    central().put(cls, first, last);
  }
  void give_all_back() {
    for (int cls = 0; cls < kThreadClasses; ++cls) give_back(cls, 0);
  }
};
static_assert(kLinearSizeClasses + 8 * 8 <= kSizeClasses);

// A plain pointer, so that access is one load; the owner beside it frees the cache when the thread
// ends, and late releases (static tensors, other thread_locals' destructors) find it gone.
thread_local Cache* cache = nullptr;
thread_local bool cache_gone = false;
struct CacheOwner {
  ~CacheOwner() {
    cache->post_all();
    cache->give_all_back();
    delete std::exchange(cache, nullptr);
    cache_gone = true;
  }
};
[[gnu::noinline]] Cache* make_thread_cache() {
  if (cache_gone) return nullptr;
  cache = new Cache;
  thread_local CacheOwner owner;
  (void)owner;
  return cache;
}
Cache* thread_cache() {
  if (cache) [[likely]]
    return cache;
  return make_thread_cache();
}

thread_local MemoryTag current_tag = MemoryTag::other;

void* take_block(size_t bytes) {
  if (!kCaching) return system_block(bytes ? bytes : 1);
  const int cls = size_class_of(bytes);
  if (cls >= kSizeClasses) return nullptr;
  Cache* c = cls < Cache::kThreadClasses ? thread_cache() : nullptr;
  if (c) {
    Cache::List& list = c->lists[cls];
    if (Free* block = list.first) {
      list.first = block->next;
      list.bytes -= bytes_of_size_class(cls);
      return block;
    }
  }
  return central().take(cls);
}

void put_block(void* data, size_t bytes) {
  if (!kCaching) {
    books[0].reserved.fetch_sub(static_cast<int64_t>(bytes ? bytes : 1), std::memory_order_relaxed);
    return std::free(data);
  }
  const int cls = size_class_of(bytes);
  auto* block = static_cast<Free*>(data);
  Cache* c = cls < Cache::kThreadClasses ? thread_cache() : nullptr;
  if (!c) return central().put(cls, block, block);
  Cache::List& list = c->lists[cls];
  block->next = list.first;
  list.first = block;
  list.bytes += bytes_of_size_class(cls);
  if (list.bytes > kThreadListBytes) [[unlikely]]
    c->give_back(cls, kThreadListBytes / 2);
}

void account(MemoryTag tag, int64_t delta) {
  if (Cache* c = thread_cache()) [[likely]]
    c->account(static_cast<int>(tag), delta);
  else
    books[0].post(static_cast<int>(tag), delta);
}

[[noreturn]] void fail_out_of_memory(Device device, int64_t bytes) {
  const MemoryStats stats = memory_stats(device);
  std::string text =
      cat({"allocate: ", device.name(), " is out of memory: asked for ", bytes, " bytes, ",
           stats.live, " live, ", stats.peak, " at peak, ", stats.reserved, " reserved"});
#ifdef PINION_WITH_CUDA
  if (device.kind == Device::Kind::cuda)
    text += cat({", ", cuda_backend::free_bytes(device.index), " free"});
#endif
  text += "; at peak by tag:";
  for (int tag = 0; tag < kMemoryTags; ++tag)
    text += cat({tag ? ", " : " ", name_of(static_cast<MemoryTag>(tag)), " ",
                 memory_stats(device, static_cast<MemoryTag>(tag)).peak});
  fail(ErrorKind::out_of_memory, {text});
}

}  // namespace

const char* name_of(MemoryTag tag) {
  constexpr const char* names[] = {"other",     "parameters",  "gradients",
                                   "optimizer", "activations", "data"};
  return names[static_cast<int>(tag)];
}

MemoryTagScope::MemoryTagScope(MemoryTag tag) : previous_(std::exchange(current_tag, tag)) {}
MemoryTagScope::~MemoryTagScope() { current_tag = previous_; }
MemoryTag MemoryTagScope::current() { return current_tag; }

void* allocate(Device device, int64_t bytes, MemoryTag tag) {
  PINION_CHECK(bytes >= 0, "allocate: bytes must not be negative, got ", bytes);
  if (device.kind == Device::Kind::cuda) {
    void* p = nullptr;
#ifdef PINION_WITH_CUDA
    p = cuda_backend::allocate(device.index, bytes);
#else
    fail_no_cuda();
#endif
    if (!p) fail_out_of_memory(device, bytes);
    books_of(device).post(static_cast<int>(tag), bytes);
    return p;
  }
  return allocate_with_header(0, bytes, tag);
}

void* allocate_with_header(int64_t header, int64_t bytes, MemoryTag tag) {
  void* p = take_block(static_cast<size_t>(header + bytes));
  if (!p) [[unlikely]] {
    trim({});
    p = take_block(static_cast<size_t>(header + bytes));
    if (!p) fail_out_of_memory({}, bytes);
  }
  account(tag, bytes);
  return p;
}

void release(Device device, void* data, int64_t bytes, MemoryTag tag) noexcept {
  if (device.kind == Device::Kind::cuda) {
#ifdef PINION_WITH_CUDA
    cuda_backend::release(device.index, data, bytes);
#endif
    return books_of(device).post(static_cast<int>(tag), -bytes);
  }
  release_with_header(data, 0, bytes, tag);
}

void release_with_header(void* block, int64_t header, int64_t bytes, MemoryTag tag) noexcept {
  put_block(block, static_cast<size_t>(header + bytes));
  account(tag, -bytes);
}

void count_foreign(Device device, int64_t bytes, MemoryTag tag) noexcept {
  if (device.kind == Device::Kind::cuda)
    books_of(device).post(static_cast<int>(tag), bytes);
  else
    account(tag, bytes);
}

static MemoryStats stats_at(Device device, int at) {
  if (Cache* c = thread_cache()) c->post_all();
  const Books& b = books_of(device);
  MemoryStats stats{b.live[at].load(), b.peak[at].load(), b.reserved.load(), b.system_calls.load()};
#ifdef PINION_WITH_CUDA
  if (device.kind == Device::Kind::cuda) {
    const cuda_backend::Activity activity = cuda_backend::activity(device.index);
    stats.reserved = activity.reserved, stats.system_calls = activity.device_calls;
  }
#endif
  return stats;
}
MemoryStats memory_stats(Device device) { return stats_at(device, kMemoryTags); }
MemoryStats memory_stats(Device device, MemoryTag tag) {
  return stats_at(device, static_cast<int>(tag));
}

void reset_peak(Device device) {
  if (Cache* c = thread_cache()) c->post_all();
  Books& b = books_of(device);
  for (int at = 0; at <= kMemoryTags; ++at) b.peak[at].store(b.live[at].load());
}

void trim(Device device) {
  if (device.kind == Device::Kind::cuda) {
#ifdef PINION_WITH_CUDA
    cuda_backend::trim(device.index);
#endif
    return;
  }
  if (Cache* c = thread_cache()) c->give_all_back();
  central().trim();
}

void* allocate_small(size_t bytes) {
  void* p = take_block(bytes);
  if (!p) [[unlikely]]
    fail_out_of_memory({}, static_cast<int64_t>(bytes));
  return p;
}
void release_small(void* block, size_t bytes) noexcept { put_block(block, bytes); }

}  // namespace pinion
