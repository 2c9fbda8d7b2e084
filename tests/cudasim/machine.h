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
inline constexpr int kNamedBarriers = 16;

enum class State : uint8_t { runnable, in_warp, in_barrier, in_grid, done };

struct Block;
struct Warp;

// One cp.async: the data is taken early or late, and lands at the wait.
struct AsyncCopy {
  char* dst;
  const char* src;
  int bytes, source_bytes;
  bool early;
  std::array<char, 16> data;
};

struct Thread {
  Fiber fiber;
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
  std::vector<AsyncCopy> open;                   // since the last commit
  std::deque<std::vector<AsyncCopy>> committed;  // oldest first
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

// Memory of the exact size; filled with 0xFF. Its end is watched, by the address sanitizer where
// there is one.
class GuardedMemory {
 public:
  GuardedMemory(size_t bytes, size_t alignment);
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
};

enum class Policy : uint8_t { forward, reverse, uniform, sticky };

struct Machine {
  bool running = false;
  LaunchShape shape;
  void (*entry)(void*) = nullptr;
  void* closure = nullptr;
  int block_threads = 0;
  Stacks stacks;
  std::unique_ptr<Thread[]> threads;  // of the resident blocks
  size_t thread_count = 0;
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  std::vector<int> active;  // warps with a runnable thread
  Fiber host;
  Thread* current = nullptr;
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

// --- memory.cpp ---
void check_device_ends(Site site);

// --- report.cpp ---
std::string text_of(Site site);  // "file.cu:12"
std::string text_of_mask(uint32_t mask);
std::string waiting_threads();  // a line for each of the first few

}  // namespace cudasim
