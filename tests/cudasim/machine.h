// SPDX-License-Identifier: Apache-2.0
// The simulated device while a launch runs: its threads, warps and blocks, and who runs next. Only
// the simulator's own files include it.
#pragma once

#include <array>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cudasim.h"
#include "device_calls.h"
#include "fiber.h"

namespace cudasim {

inline constexpr int kWarpLanes = 32;
inline constexpr uint32_t kAllLanes = 0xffffffff;
inline constexpr int kNamedBarriers = 16;

enum class State : uint8_t { runnable, in_warp, in_barrier, in_grid, in_async, done };

struct Block;
struct Warp;

// One cp.async: the data is taken early or late, and lands at the wait.
struct AsyncCopy {
  char* dst;
  const char* src;
  int bytes, source_bytes;
  bool early;
  std::array<char, 16> data;
  Site site;
};

struct Thread {
  Fiber fiber;
  const char* stack = nullptr;  // its lowest address
  Block* block = nullptr;
  Warp* warp = nullptr;
  int rank = 0, lane = 0;  // in the block, in the warp
  uint3 index{};
  State state = State::done;
  // Where and in what it waits.
  const char* what = "";
  Site site;
  uint32_t mask = 0;
  void* operand = nullptr;
  int barrier = -1;
  int barrier_result = 0;
  int in_simulator = 0;  // calls that it has made into the simulator and that have not returned
  std::vector<AsyncCopy> open;                   // since the last commit
  std::deque<std::vector<AsyncCopy>> committed;  // oldest first
};

// A barrier in shared memory (mbarrier): a phase ends when nobody and no byte is missing any more.
struct PhaseBarrier {
  int arrivals = 0, missing = 0, parity = 0;
  int64_t bytes = 0;       // that are expected and not there yet
  bool published = false;  // to copies
  const Thread* maker = nullptr;
  Site unseen;  // the copy of a tile that has landed since anybody has waited here
  std::vector<Thread*> waiting;
};

// What a tensor map says, in its place.
struct TensorMap {
  const char* data;
  std::array<uint64_t, 3> extent;    // elements
  std::array<uint64_t, 2> distance;  // bytes
  std::array<uint32_t, 3> box;
};
// A tile on its way to shared memory.
struct TileCopy {
  Thread* issuer;
  TensorMap map;
  std::array<int, 3> at;
  char* to;
  uint64_t* barrier;
  Site site;
};

inline constexpr int kGroupWarps = 4;
inline constexpr int kGroupThreads = kGroupWarps * kWarpLanes;

// One wgmma of a warp group. Its operands are read early or late, as cp.async does.
struct GroupProduct {
  TileProduct form;  // of any lane: `sums` is in the lanes
  Site site;
  uint32_t issued = 0;  // by which warps
  std::array<float*, kGroupThreads> sums{};
  std::vector<float> values;  // [64, columns], once the operands are read
};
struct WarpGroup {
  std::deque<GroupProduct> products;
  struct OfWarp {
    size_t issued = 0;
    bool begun = false;        // since the last commit
    std::vector<size_t> ends;  // of its groups of products, in `products`
  };
  std::array<OfWarp, kGroupWarps> warps;
  struct OfThread {
    size_t finished = 0;
    // What the sums are while the registers, which belong to the products, hold NaN.
    std::map<float*, std::vector<float>> held;
  };
  std::array<OfThread, kGroupThreads> threads;
  std::vector<Thread*> waiting;
};

struct Warp {
  std::array<Thread*, kWarpLanes> lanes{};
  uint32_t existing = 0, exited = 0, waiting = 0, runnable = 0;
  int active_at = -1;  // its place in Machine::active
};

struct Barrier {
  int arrived = 0, expected = 0, count = 0;
  Site site;
};

enum class Space : uint8_t { device, shared };
enum class AccessKind : uint8_t { read, write, atomic };

// What sees every access of a kernel, in the flavour that compiles kernels so (race.cpp).
class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void launch_begins() = 0;
  virtual void wave_begins() = 0;  // other blocks in the same places
  virtual void launch_ends() = 0;  // throws Error (race)
  // Who meets sees what the others did before.
  virtual void warps_meet(Block& block, const std::vector<Warp*>& warps) = 0;
  virtual void lanes_meet(Block& block, Warp& warp, uint32_t mask) = 0;
  virtual void grid_meets() = 0;
  virtual void fence() = 0;
  // A barrier in shared memory: who waits for the end of a phase sees what those who arrived did.
  virtual void arrives(const void* barrier) = 0;
  virtual void phase_ends(const void* barrier) = 0;
  virtual void phase_waited(const void* barrier) = 0;
  // Of the current thread, where the simulator touches memory in its place.
  virtual void access(const void* p, size_t bytes, AccessKind kind, Site site) = 0;
  // Of an engine that works for it: no request of its warp.
  virtual void engine_access(const void* p, size_t bytes, AccessKind kind, Site site) = 0;
  virtual void memory(const void* p, size_t bytes, Space space) = 0;
  virtual void memory_gone(const void* p) = 0;
};
inline Watcher* watcher = nullptr;

// Memory of the exact size; filled with 0xFF. Its end is watched, by the address sanitizer where
// there is one.
class GuardedMemory {
 public:
  GuardedMemory(size_t bytes, size_t alignment, Space space);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool end_is_intact() const;
  void mend_end();

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

struct Block {
  uint64_t number = 0;
  uint3 index{};
  int alive = 0;
  std::array<Barrier, kNamedBarriers> barriers{};
  std::unique_ptr<GuardedMemory> dynamic;
  std::map<const void*, std::unique_ptr<GuardedMemory>> named;  // by the tag of its type
  std::map<const uint64_t*, PhaseBarrier> phase_barriers;
  std::map<int, WarpGroup> warp_groups;
};

enum class Policy : uint8_t { forward, reverse, uniform, sticky };

struct Machine {
  bool running = false;
  LaunchShape shape;
  void (*entry)(void*) = nullptr;
  void* closure = nullptr;
  size_t closure_bytes = 0;
  int block_threads = 0;
  Stacks stacks;
  std::unique_ptr<Thread[]> threads;  // of the resident blocks
  size_t thread_count = 0;
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  std::vector<int> active;      // warps with a runnable thread
  std::vector<TileCopy> tiles;  // under way
  Fiber host;
  // Of this thread of the host: others may be in the code of kernel files at the same time.
  inline static thread_local Thread* current = nullptr;
  int last_warp = -1;
  Policy policy = Policy::uniform;
  bool fair_turn = false;  // the next pick is uniform: a yielding thread must not be preferred
  int alive = 0, at_grid_barrier = 0;
  int64_t idle_spins = 0;
  uint64_t random_state = 1;
  std::exception_ptr error;

  uint64_t random();
};
extern Machine machine;

// In every function that kernels call: what the simulator does there is not an access of theirs.
class InSimulator {
 public:
  InSimulator() : thread_(machine.current) {
    if (thread_) ++thread_->in_simulator;
  }
  ~InSimulator() {
    if (thread_) --thread_->in_simulator;
  }
  InSimulator(const InSimulator&) = delete;
  InSimulator& operator=(const InSimulator&) = delete;

 private:
  Thread* thread_;
};

// --- scheduler.cpp ---
void make_runnable(Thread& t);
// The current thread is blocked, done, or made runnable again: runs somebody else.
void reschedule();
// Runs the resident threads until all are done, nobody can run, or an error is there.
void run_resident();
void thread_main();  // what a fiber runs

// --- warp.cpp, block.cpp, async_copy.cpp: what the end of a thread means to them ---
void check_exit(const Thread& t);
void finish_copies(Thread& t);

// --- warp_group.cpp ---
void check_products(const Thread& t);  // at the end of a thread: all are waited for

// --- tiles.cpp ---
char* at_shared_address(uint32_t address, size_t bytes, Site site);
// Lets tiles land: some at random, and one at least when nobody can run without.
void land_tiles();

// --- memory.cpp ---
void check_device_ends(Site site);

// --- report.cpp ---
std::string text_of(Site site);  // "file.cu:12"
std::string text_of_mask(uint32_t mask);
std::string waiting_threads();  // a line for each of the first few

}  // namespace cudasim
