// SPDX-License-Identifier: Apache-2.0
// Barriers in shared memory (mbarrier) and copies of tiles by a tensor map (TMA). A tile is NaN
// from the copy's issue until it lands, at a random moment or when nobody can go on without it.
#include <algorithm>
#include <cstring>

#include "cuda.h"
#include "machine.h"

namespace cudasim {
namespace {

constexpr uint32_t kSwizzledLine = 128;  // bytes
constexpr int kTileElement = 2;          // bytes

// Bytes 4 to 6 of an address within shared memory turn by bits 7 to 9.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// A barrier's own word is touched by operations that are atomic among themselves.
PhaseBarrier& barrier_at(const uint64_t* at, AccessKind kind, Site site) {
  if (watcher) watcher->engine_access(at, sizeof *at, kind, site);
  auto& all = machine.current->block->phase_barriers;
  const auto found = all.find(at);
  if (found == all.end())
    fail(Fault::async, "mbarrier: it is used before anybody has initialised it", site);
  return found->second;
}

void end_phase_if_complete(const uint64_t* at, PhaseBarrier& barrier) {
  if (barrier.missing || barrier.bytes) return;
  barrier.parity ^= 1;
  barrier.missing = barrier.arrivals;
  if (watcher) watcher->phase_ends(at);
  for (Thread* t : barrier.waiting) make_runnable(*t);
  barrier.waiting.clear();
}

void check_tile(const TileCopy& copy, Site site) {
  if (reinterpret_cast<uintptr_t>(copy.to) % 128 != 0)
    fail(Fault::alignment, "a tile in shared memory begins on a boundary of 128 bytes", site);
  const TensorMap& map = copy.map;
  const uint64_t last = (map.extent[2] - 1) * map.distance[1] +
                        (map.extent[1] - 1) * map.distance[0] +
                        map.extent[0] * uint64_t{kTileElement};
  if (!is_device_memory(map.data, last))
    fail(Fault::bounds, "a tensor map reaches beyond the memory that it is of", site);
}

// The columns of a line that lie inside the tensor; the rest is zeros.
void copy_line(const TileCopy& copy, uint32_t line, uint32_t matrix, uint32_t to) {
  const TensorMap& map = copy.map;
  const int64_t row = int64_t{copy.at[1]} + line, plane = int64_t{copy.at[2]} + matrix;
  const auto extent = [&](size_t d) { return static_cast<int64_t>(map.extent[d]); };
  const bool there = row >= 0 && row < extent(1) && plane >= 0 && plane < extent(2);
  const int64_t first = copy.at[0], begin = std::max<int64_t>(first, 0);
  const int64_t end = there ? std::min(first + int64_t{map.box[0]}, extent(0)) : begin;
  const char* from = map.data + row * static_cast<int64_t>(map.distance[0]) +
                     plane * static_cast<int64_t>(map.distance[1]);
  if (watcher && begin < end)
    watcher->engine_access(from + begin * kTileElement,
                           static_cast<size_t>(end - begin) * kTileElement, AccessKind::read,
                           copy.site);
  for (int64_t column = first; column < first + map.box[0]; ++column) {
    const auto byte = static_cast<uint32_t>(column - first) * uint32_t{kTileElement};
    char* at = at_shared_address(swizzled(to + byte), kTileElement, copy.site);
    if (column >= begin && column < end)
      std::memcpy(at, from + column * kTileElement, kTileElement);
    else
      std::memset(at, 0, kTileElement);
  }
}

// In the place of the thread that started the copy.
void land(const TileCopy& copy) {
  Thread* const running = machine.current;
  machine.current = copy.issuer;
  try {
    const InSimulator guard;
    const TensorMap& map = copy.map;
    uint32_t to = shared_address(copy.to, copy.site);
    const size_t bytes = size_t{kSwizzledLine} * map.box[1] * map.box[2];
    if (watcher) watcher->engine_access(copy.to, bytes, AccessKind::write, copy.site);
    for (uint32_t matrix = 0; matrix < map.box[2]; ++matrix)
      for (uint32_t line = 0; line < map.box[1]; ++line, to += kSwizzledLine)
        copy_line(copy, line, matrix, to);
    PhaseBarrier& barrier = barrier_at(copy.barrier, AccessKind::atomic, copy.site);
    if (watcher) watcher->arrives(copy.barrier);
    barrier.bytes -= static_cast<int64_t>(bytes);
    barrier.unseen = copy.site;
    end_phase_if_complete(copy.barrier, barrier);
  } catch (...) {
    if (!machine.error) machine.error = std::current_exception();
  }
  machine.current = running;
}

}  // namespace

uint32_t shared_address(const void* p, Site site) {
  const InSimulator guard;
  const GuardedMemory* memory = machine.current->block->dynamic.get();
  const char* at = static_cast<const char*>(p);
  if (!memory || at < memory->data() || at > memory->data() + memory->bytes())
    fail(Fault::pointer, "this is not in the dynamic shared memory of the block", site);
  return static_cast<uint32_t>(at - memory->data());
}
char* at_shared_address(uint32_t address, size_t bytes, Site site) {
  const GuardedMemory* memory = machine.current->block->dynamic.get();
  if (!memory || address + bytes > memory->bytes())
    fail(Fault::bounds,
         "an asynchronous operation reaches byte " + std::to_string(address + bytes) +
             " of dynamic shared memory",
         site);
  return memory->data() + address;
}

void init_barrier(uint64_t* at, int arrivals, Site site) {
  const InSimulator guard;
  check_alignment(at, sizeof *at, site);
  if (arrivals < 1) fail(Fault::async, "mbarrier: expected at least one arrival a phase", site);
  if (watcher) watcher->engine_access(at, sizeof *at, AccessKind::write, site);
  *at = 0;
  PhaseBarrier& barrier = machine.current->block->phase_barriers[at] = {};
  barrier.arrivals = barrier.missing = arrivals;
  barrier.maker = machine.current;
}

void publish_barriers() {
  const InSimulator guard;
  for (auto& [at, barrier] : machine.current->block->phase_barriers)
    if (barrier.maker == machine.current) barrier.published = true;
}

void arrive_at_barrier(uint64_t* at, int expected_bytes, Site site) {
  const InSimulator guard;
  PhaseBarrier& barrier = barrier_at(at, AccessKind::atomic, site);
  if (barrier.missing == 0)
    fail(Fault::async,
         "mbarrier: more than " + std::to_string(barrier.arrivals) + " arrivals in one phase",
         site);
  if (watcher) watcher->arrives(at);
  barrier.bytes += expected_bytes;
  --barrier.missing;
  end_phase_if_complete(at, barrier);
}

void wait_for_phase(uint64_t* at, int parity, Site site) {
  const InSimulator guard;
  Thread& self = *machine.current;
  for (;;) {
    PhaseBarrier& barrier = barrier_at(at, AccessKind::atomic, site);
    if (barrier.parity != parity) {
      barrier.unseen = {};
      if (watcher) watcher->phase_waited(at);
      return;
    }
    self.what = "an mbarrier";
    self.site = site;
    self.state = State::in_async;
    barrier.waiting.push_back(&self);
    reschedule();
  }
}

void load_tile(void* shared, const void* map, const std::array<int, 3>& at, uint64_t* barrier,
               Site site) {
  const InSimulator guard;
  TileCopy copy{machine.current, {}, at, static_cast<char*>(shared), barrier, site};
  std::memcpy(&copy.map, map, sizeof copy.map);
  check_tile(copy, site);
  if (!barrier_at(barrier, AccessKind::atomic, site).published)
    fail(Fault::async, "a tile is to tell a barrier that no fence has shown to copies", site);
  const size_t bytes = size_t{kSwizzledLine} * copy.map.box[1] * copy.map.box[2];
  at_shared_address(shared_address(shared, site), bytes, site);
  if (watcher) watcher->engine_access(shared, bytes, AccessKind::write, site);
  std::memset(shared, 0xFF, bytes);
  machine.tiles.push_back(copy);
}

void land_tiles() {
  constexpr uint64_t kPatience = 8;  // turns of other threads, on average
  std::vector<TileCopy>& tiles = machine.tiles;
  while (!tiles.empty() && machine.alive && !machine.error &&
         (machine.active.empty() || machine.random() % kPatience == 0)) {
    std::swap(tiles[machine.random() % tiles.size()], tiles.back());
    const TileCopy copy = tiles.back();
    tiles.pop_back();
    land(copy);
  }
}

}  // namespace cudasim

// What the driver refuses, as its manual lists it.
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data,
                                const cuuint64_t* extents, const cuuint64_t* distances,
                                const cuuint32_t* box, const cuuint32_t* each,
                                CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  constexpr cuuint32_t kRank = 3, kMostBox = 256;
  constexpr cuuint64_t kMostExtent = cuuint64_t{1} << 32, kMostDistance = cuuint64_t{1} << 40;
  bool good = rank == kRank && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
              swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * cudasim::kTileElement == 128;
  for (cuuint32_t i = 0; i < kRank; ++i)
    good = good && extents[i] > 0 && extents[i] <= kMostExtent && box[i] > 0 &&
           box[i] <= kMostBox && each[i] == 1;
  for (cuuint32_t i = 0; i + 1 < kRank; ++i)
    good = good && distances[i] % 16 == 0 && distances[i] < kMostDistance;
  if (!good) return CUDA_ERROR_INVALID_VALUE;
  const cudasim::TensorMap plain{static_cast<const char*>(data),
                                 {extents[0], extents[1], extents[2]},
                                 {distances[0], distances[1]},
                                 {box[0], box[1], box[2]}};
  static_assert(sizeof plain <= sizeof *map);
  std::memcpy(map, &plain, sizeof plain);
  return CUDA_SUCCESS;
}
