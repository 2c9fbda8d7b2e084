// SPDX-License-Identifier: Apache-2.0
// Races, and accesses out of bounds. Kernels are compiled with -fsanitize=thread but linked with
// this file in place of the sanitizer's library, so that every load and store of theirs comes here.
// Two accesses of which one writes must be ordered by barriers, __syncwarp, or a fence and an
// atomic; whether they are does not depend on the schedule. Shuffles order nothing, as in CUDA.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

#include "lint.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cudasim {
namespace {

constexpr size_t kGranule = 4;  // bytes of a cell
constexpr size_t kPageCells = 256;
constexpr size_t kMostReports = 12;  // of one launch
constexpr size_t kNear = 4096;       // bytes behind an allocation that are told by it

// Time counts the events that order accesses.
struct Access {
  uint64_t time = 0;
  Place place;
  uint32_t block = 0;
  uint16_t thread = 0;
  uint8_t bytes = 0;  // of the granule, a mask
  bool atomic = false;
};
// The last write, and the latest reads of two warps, so that the other warp is never forgotten.
struct Cell {
  Access write, read[2];
};

struct Region {
  const char* end;
  Space space;
  std::vector<std::unique_ptr<std::array<Cell, kPageCells>>> pages;
};

// What accesses of the other warps of its block a warp comes after: those before these times. And,
// where part of a warp has met, what lane i knows of lane j.
struct WarpClock {
  std::array<uint64_t, kWarpLanes> seen{};
  std::unique_ptr<std::array<std::array<uint64_t, kWarpLanes>, kWarpLanes>> lanes;
};

// By block and warp: what was done before which time.
using Clock = std::map<std::pair<uint64_t, int>, uint64_t>;
void merge(Clock& into, const Clock& from) {
  for (const auto& [who, time] : from) into[who] = std::max(into[who], time);
}

struct BlockClock {
  Clock known;      // of other blocks
  Clock published;  // of its own, by its last fence
};

// Of a barrier in shared memory, by warp of its block: what those who arrived had seen, now and
// when the last phase ended.
struct PhaseClock {
  std::array<uint64_t, kWarpLanes> arrived{}, ended{};
};

const char* name_of(AccessKind kind) { return kind == AccessKind::read ? "read" : "write"; }

class RaceWatcher final : public Watcher {
 public:
  RaceWatcher() { watcher = this; }

  void launch_begins() override {
    began_ = ++now_;
    grid_met_ = 0;
    reports_.clear();
    reported_.clear();
    released_.clear();
    block_clocks_.clear();
    wave_begins();
  }
  void wave_begins() override {
    count_traffic_of_blocks();
    warp_clocks_.clear();
    warp_clocks_.resize(machine.warps.size());
    phase_clocks_.clear();
  }
  void launch_ends() override {
    count_traffic_of_blocks();
    if (reports_.empty()) return;
    std::string text = std::to_string(reported_.size()) + " race(s):";
    for (const std::string& r : reports_) text += "\n  " + r;
    throw Error(Fault::race, "cudasim: " + text, {}, {}, {});
  }

  void warps_meet(Block& block, const std::vector<Warp*>& warps) override {
    ++now_;
    std::array<uint64_t, kWarpLanes> joined{};
    for (const Warp* w : warps)
      for (size_t i = 0; i < joined.size(); ++i)
        joined[i] = std::max(joined[i], clock_of(*w).seen[i]);
    for (const Warp* w : warps) joined[static_cast<size_t>(place_of(block, *w))] = now_;
    for (const Warp* w : warps) clock_of(*w).seen = joined;
  }
  void lanes_meet(Block& block, Warp& warp, uint32_t mask) override {
    ++now_;
    WarpClock& clock = clock_of(warp);
    if (mask == (warp.existing & ~warp.exited)) {
      clock.seen[static_cast<size_t>(place_of(block, warp))] = now_;
      return;
    }
    if (!clock.lanes)
      clock.lanes = std::make_unique<std::array<std::array<uint64_t, kWarpLanes>, kWarpLanes>>();
    for_lanes(mask, [&](int i) {
      for_lanes(mask, [&](int j) {
        (*clock.lanes)[static_cast<size_t>(i)][static_cast<size_t>(j)] = now_;
      });
    });
  }
  void grid_meets() override { grid_met_ = ++now_; }

  void fence() override {
    const Thread& self = *machine.current;
    const int own = place_of(*self.block, *self.warp);
    BlockClock& clock = block_clocks_[self.block->number];
    for (size_t w = 0; w < kWarpLanes; ++w) {
      uint64_t& time = clock.published[{self.block->number, static_cast<int>(w)}];
      time = std::max(time, clock_of(*self.warp).seen[w]);
    }
    clock.published[{self.block->number, own}] = ++now_;
  }

  // One lane that arrives speaks for its warp.
  void arrives(const void* barrier) override {
    const Thread& self = *machine.current;
    std::array<uint64_t, kWarpLanes>& clock = phase_clocks_[barrier].arrived;
    const std::array<uint64_t, kWarpLanes>& seen = clock_of(*self.warp).seen;
    for (size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], seen[i]);
    clock[static_cast<size_t>(place_of(*self.block, *self.warp))] = ++now_;
  }
  void phase_ends(const void* barrier) override {
    PhaseClock& clock = phase_clocks_[barrier];
    clock.ended = clock.arrived;
  }
  void phase_waited(const void* barrier) override {
    const std::array<uint64_t, kWarpLanes>& ended = phase_clocks_[barrier].ended;
    std::array<uint64_t, kWarpLanes>& seen = clock_of(*machine.current->warp).seen;
    for (size_t i = 0; i < seen.size(); ++i) seen[i] = std::max(seen[i], ended[i]);
  }

  void memory(const void* p, size_t bytes, Space space) override {
    const char* begin = static_cast<const char*>(p);
    Region region{begin + bytes, space, {}};
    region.pages.resize(bytes / kGranule / kPageCells + 2);
    regions_[begin] = std::move(region);
    recent_.fill(nullptr);
  }
  void memory_gone(const void* p) override {
    regions_.erase(static_cast<const char*>(p));
    recent_.fill(nullptr);
  }

  void access(const void* p, size_t bytes, AccessKind kind, Site site) override {
    check(static_cast<const char*>(p), bytes, kind, place_of_site(site), traffic_is_counted);
  }
  void engine_access(const void* p, size_t bytes, AccessKind kind, Site site) override {
    check(static_cast<const char*>(p), bytes, kind, place_of_site(site), false);
  }
  // By the code of a kernel, which called from `pc`.
  void instrumented(const void* p, size_t bytes, AccessKind kind, const void* pc) {
    Thread* self = machine.current;
    if (!self || self->in_simulator) return;
    const char* at = static_cast<const char*>(p);
    if (at >= self->stack && at < self->stack + kStackBytes) return;  // most accesses by far
    const InSimulator guard;
    if (!region_of(at) && is_private(at, bytes, kind, {pc, nullptr})) return;
    check(at, bytes, kind, {pc, nullptr}, traffic_is_counted);
  }

 private:
  Place place_of_site(Site site) {
    const std::string*& text = site_texts_[{site.file, site.line}];
    if (!text) text = &*texts_.insert(text_of(site)).first;
    return {nullptr, text};
  }
  WarpClock& clock_of(const Warp& w) {
    return warp_clocks_[static_cast<size_t>(&w - machine.warps.data())];
  }
  static int place_of(const Block& block, const Warp& w) {
    const auto first = static_cast<size_t>(&block - machine.blocks.data()) *
                       (machine.warps.size() / machine.blocks.size());
    return static_cast<int>(static_cast<size_t>(&w - machine.warps.data()) - first);
  }

  // Its arguments, the built-in variables, and constants of the program.
  bool is_private(const char* p, size_t bytes, AccessKind kind, Place place) {
    if (machine.stacks.owner(p) >= 0)
      stop(Fault::pointer, std::string(name_of(kind)) + " of another thread's local memory", place);
    const auto within = [&](const void* begin, size_t size) {
      const char* b = static_cast<const char*>(begin);
      return p >= b && p + bytes <= b + size;
    };
    if (within(machine.closure, machine.closure_bytes) || within(&threadIdx, sizeof threadIdx) ||
        within(&blockIdx, sizeof blockIdx) || within(&blockDim, sizeof blockDim) ||
        within(&gridDim, sizeof gridDim))
      return true;
    Dl_info info;
    return kind == AccessKind::read && dladdr(p, &info) != 0;
  }

  std::pair<const char* const, Region>* region_of(const char* p) {
    for (auto* recent : recent_)
      if (recent && p >= recent->first && p < recent->second.end) return recent;
    auto after = regions_.upper_bound(p);
    if (after == regions_.begin()) return nullptr;
    auto& found = *std::prev(after);
    if (p >= found.second.end) return nullptr;
    return recent_[oldest_++ % recent_.size()] = &found;
  }

  void check(const char* p, size_t bytes, AccessKind kind, Place place, bool counted) {
    auto* region = region_of(p);
    if (!region || p + bytes > region->second.end)
      stop(Fault::bounds, text_of_bounds(p, bytes, kind), place);
    if (counted && kind != AccessKind::atomic) {
      const bool shared = region->second.space == Space::shared;
      const uint64_t address = reinterpret_cast<uintptr_t>(p) -
                               (shared ? reinterpret_cast<uintptr_t>(region->first) : 0);
      count_traffic({place, machine.current, address, bytes, shared, kind == AccessKind::write});
    }
    for (const char* at = p; at < p + bytes;) {
      const auto offset = static_cast<size_t>(at - region->first);
      const size_t skip = offset % kGranule;
      const size_t count = std::min<size_t>(kGranule - skip, static_cast<size_t>(p + bytes - at));
      auto& page = region->second.pages[offset / kGranule / kPageCells];
      if (!page) page = std::make_unique<std::array<Cell, kPageCells>>();
      const auto mask = static_cast<uint8_t>(((1u << count) - 1) << skip);
      touch((*page)[offset / kGranule % kPageCells], mask, kind, place,
            region->second.space == Space::shared, offset);
      at += count;
    }
    if (kind == AccessKind::atomic) synchronise(p);
  }

  void touch(Cell& cell, uint8_t mask, AccessKind kind, Place place, bool shared, size_t offset) {
    const Thread& self = *machine.current;
    const bool writes = kind != AccessKind::read, atomic = kind == AccessKind::atomic;
    const auto conflicts = [&](const Access& a) __attribute__((always_inline)) {
      return (a.bytes & mask) && a.time >= began_ && !(a.atomic && atomic) && !is_ordered(a);
    };
    if (conflicts(cell.write))
      report(writes ? "write after write" : "read after write", cell.write, place, shared, offset);
    Access own{
        now_, place, static_cast<uint32_t>(self.block->number), static_cast<uint16_t>(self.rank),
        mask, atomic};
    if (writes) {
      for (const Access& read : cell.read)
        if (conflicts(read)) report("write after read", read, place, shared, offset);
      const bool same = cell.write.block == own.block && cell.write.thread == own.thread;
      if (same && cell.write.time >= began_) own.bytes |= cell.write.bytes;
      cell.write = own;
      return;
    }
    const auto of_warp = [&](const Access& a) {
      return a.time >= began_ && a.block == own.block &&
             a.thread / kWarpLanes == own.thread / kWarpLanes;
    };
    size_t slot = cell.read[0].time <= cell.read[1].time ? 0 : 1;
    if (of_warp(cell.read[1])) slot = 1;
    if (of_warp(cell.read[0])) slot = 0;
    cell.read[slot] = own;
  }

  bool is_ordered(const Access& a) {
    const Thread& self = *machine.current;
    if (a.time < grid_met_) return true;
    const int warp = a.thread / kWarpLanes;
    if (a.block != self.block->number) {
      const Clock& known = block_clocks_[self.block->number].known;
      const auto at = known.find({a.block, warp});
      return at != known.end() && a.time < at->second;
    }
    if (a.thread == self.rank) return true;
    const WarpClock& clock = clock_of(*self.warp);
    if (a.time < clock.seen[static_cast<size_t>(warp)]) return true;
    return warp == self.rank / kWarpLanes && clock.lanes &&
           a.time < (*clock.lanes)[static_cast<size_t>(self.lane)]
                                  [static_cast<size_t>(a.thread % kWarpLanes)];
  }

  // An atomic learns what others had published when they changed the same address, and tells what
  // its own block has published.
  void synchronise(const char* p) {
    ++now_;
    BlockClock& clock = block_clocks_[machine.current->block->number];
    Clock& at = released_[p];
    merge(clock.known, at);
    merge(at, clock.published);
    merge(at, clock.known);
  }

  // --- reports ---

  std::string text_of_place(Place place) {
    if (place.text) return *place.text;
    std::string& text = lines_[place.pc];
    if (text.empty()) text = lines_of({place.pc})[place.pc];
    return text.empty() ? "an unknown line" : text;
  }

  Site site_of(Place place) {
    const std::string& text = *texts_.insert(text_of_place(place)).first;
    const size_t colon = text.rfind(':');
    const int line = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
    return {files_.insert(text.substr(0, colon)).first->c_str(), line};
  }

  static std::string name_of_thread(uint64_t block, int thread) {
    return "block " + std::to_string(block) + " thread " + std::to_string(thread);
  }

  void report(const char* what, const Access& before, Place place, bool shared, size_t offset) {
    if (!reported_.insert({before.place, place}).second || reports_.size() >= kMostReports) return;
    const Thread& self = *machine.current;
    reports_.push_back(
        std::string(what) + " on " + (shared ? "shared" : "device") + " memory at byte " +
        std::to_string(offset) + ": " + name_of_thread(before.block, before.thread) + " at " +
        text_of_place(before.place) + ", then " + name_of_thread(self.block->number, self.rank) +
        " at " + text_of_place(place));
  }

  std::string text_of_bounds(const char* p, size_t bytes, AccessKind kind) {
    std::string text = std::string(name_of(kind)) + " of " + std::to_string(bytes) + " bytes";
    auto after = regions_.upper_bound(p);
    if (after == regions_.begin()) return text + " that are not memory of the device";
    const auto& [begin, region] = *std::prev(after);
    if (p > region.end + kNear) return text + " that are not memory of the device";
    return text + " at byte " + std::to_string(p - begin) + " of a " +
           (region.space == Space::shared ? "shared" : "device") + " allocation of " +
           std::to_string(region.end - begin) + " bytes";
  }

  // Nothing can be thrown through the code of a kernel from here: its thread stays where it is.
  [[noreturn]] void stop(Fault fault, const std::string& text, Place place) {
    try {
      fail(fault, text, site_of(place));
    } catch (...) {
      machine.error = std::current_exception();
    }
    reschedule();
    __builtin_unreachable();
  }

  uint64_t now_ = 1, began_ = 1, grid_met_ = 0;
  std::map<const char*, Region> regions_;
  std::array<std::pair<const char* const, Region>*, 4> recent_{};
  size_t oldest_ = 0;  // of recent_
  std::vector<WarpClock> warp_clocks_;
  std::map<uint64_t, BlockClock> block_clocks_;
  std::map<const void*, PhaseClock> phase_clocks_;
  std::map<const void*, Clock> released_;
  std::set<std::string> texts_, files_;
  std::map<std::pair<const char*, int>, const std::string*> site_texts_;
  std::map<const void*, std::string> lines_;
  std::set<std::pair<Place, Place>> reported_;
  std::vector<std::string> reports_;
};

// Never destroyed: device memory in static storage is released late.
RaceWatcher& races() {
  static auto* const all = new RaceWatcher;
  return *all;
}
[[maybe_unused]] const bool installed = (races(), true);

}  // namespace
}  // namespace cudasim

// --- what -fsanitize=thread calls ---

#define CUDASIM_CALLER __builtin_return_address(0)
#define CUDASIM_TOUCH(name, bytes, kind)                                                \
  void __tsan_##name(void* p) {                                                         \
    cudasim::races().instrumented(p, bytes, cudasim::AccessKind::kind, CUDASIM_CALLER); \
  }
#define CUDASIM_TOUCHES(bytes)                        \
  CUDASIM_TOUCH(read##bytes, bytes, read)             \
  CUDASIM_TOUCH(write##bytes, bytes, write)           \
  CUDASIM_TOUCH(unaligned_read##bytes, bytes, read)   \
  CUDASIM_TOUCH(unaligned_write##bytes, bytes, write) \
  CUDASIM_TOUCH(volatile_read##bytes, bytes, read)    \
  CUDASIM_TOUCH(volatile_write##bytes, bytes, write)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
CUDASIM_TOUCHES(1)
CUDASIM_TOUCHES(2)
CUDASIM_TOUCHES(4)
CUDASIM_TOUCHES(8)
CUDASIM_TOUCHES(16)
void __tsan_read_range(void* p, size_t bytes) {
  cudasim::races().instrumented(p, bytes, cudasim::AccessKind::read, CUDASIM_CALLER);
}
void __tsan_write_range(void* p, size_t bytes) {
  cudasim::races().instrumented(p, bytes, cudasim::AccessKind::write, CUDASIM_CALLER);
}
}
