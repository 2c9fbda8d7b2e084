// SPDX-License-Identifier: Apache-2.0
// A launch from its checks to its end: blocks one at a time in an order drawn from the seed, or all
// at once when the launch is cooperative.
#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "machine.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cudasim {
namespace {

constexpr size_t kMaxBlockThreads = 1024, kMaxBlockDepth = 64;
constexpr size_t kMaxGridX = 2147483647, kMaxGridYZ = 65535;
constexpr size_t kMaxResident = 32768;             // threads of a cooperative launch
constexpr size_t kDynamicAlignment = 1024;         // what TMA wants
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;  // spreads small seeds over all bits

Options options_of_environment() {
  Options o;
  if (const char* seed = std::getenv("CUDASIM_SEED")) {
    char* end = nullptr;
    o.seed = std::strtoull(seed, &end, 10);
    if (end == seed || *end)
      throw std::invalid_argument(std::string("CUDASIM_SEED: expected a number, got ") + seed);
  }
  if (const char* order = std::getenv("CUDASIM_ORDER")) {
    const std::string_view wanted = order;
    if (wanted == "forward")
      o.order = Order::forward;
    else if (wanted == "reverse")
      o.order = Order::reverse;
    else if (wanted != "random")
      throw std::invalid_argument(
          std::string("CUDASIM_ORDER: expected random, forward or reverse, got ") + order);
  }
  return o;
}

size_t volume(const dim3& d) { return size_t{d.x} * d.y * d.z; }

uint3 unfold(uint64_t i, const dim3& extent) {
  return {static_cast<unsigned>(i % extent.x), static_cast<unsigned>(i / extent.x % extent.y),
          static_cast<unsigned>(i / (uint64_t{extent.x} * extent.y))};
}

// Fresh threads and stacks for `count` resident threads; those of the last launch where they fit.
void prepare_threads(size_t count) {
  Machine& m = machine;
  if (m.stacks.reserve(count) || m.thread_count != count) {
    m.threads = std::make_unique<Thread[]>(count);
    m.thread_count = count;
    for (size_t i = 0; i < count; ++i) {
      m.threads[i].stack = m.stacks[i];
      m.threads[i].fiber.prepare(m.stacks[i], thread_main);
    }
  }
}

// The numbers of the blocks in the order in which they run.
std::vector<uint64_t> block_order(uint64_t count) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (options().order == Order::reverse) std::reverse(order.begin(), order.end());
  if (options().order == Order::random)
    for (uint64_t i = count; i > 1; --i) std::swap(order[i - 1], order[machine.random() % i]);
  return order;
}

Policy draw_policy() {
  if (options().order == Order::forward) return Policy::forward;
  if (options().order == Order::reverse) return Policy::reverse;
  return machine.random() % 3 == 0 ? Policy::uniform : Policy::sticky;
}

void start_block(Block& block, size_t slot, uint64_t number) {
  Machine& m = machine;
  const auto threads = static_cast<size_t>(m.block_threads);
  const size_t warps = (threads + kWarpLanes - 1) / kWarpLanes;
  block.number = number;
  block.index = unfold(number, m.shape.grid);
  block.alive = m.block_threads;
  block.barriers.fill({});
  block.named.clear();
  block.phase_barriers.clear();
  block.warp_groups.clear();
  if (m.shape.shared_bytes)
    block.dynamic =
        std::make_unique<GuardedMemory>(m.shape.shared_bytes, kDynamicAlignment, Space::shared);
  for (size_t w = 0; w < warps; ++w) m.warps[slot * warps + w] = {};
  for (size_t i = 0; i < threads; ++i) {
    Thread& t = m.threads[slot * threads + i];
    t.block = &block;
    t.warp = &m.warps[slot * warps + i / kWarpLanes];
    t.rank = static_cast<int>(i);
    t.lane = static_cast<int>(i % kWarpLanes);
    t.index = unfold(i, m.shape.block);
    t.barrier = -1;
    t.open.clear();
    t.committed.clear();
    t.warp->lanes[i % kWarpLanes] = &t;
    t.warp->existing |= 1u << t.lane;
    make_runnable(t);
  }
}

void check_block_end(const Block& block) {
  const auto check = [](const GuardedMemory& memory, const char* kind) {
    if (!memory.end_is_intact())
      fail(Fault::bounds,
           std::string("something wrote past the end of ") + kind + " shared memory of " +
               std::to_string(memory.bytes()) + " bytes",
           {});
  };
  if (block.dynamic) check(*block.dynamic, "dynamic");
  for (const auto& [at, barrier] : block.phase_barriers)
    if (barrier.unseen.line)
      fail(Fault::async, "a block ends that has not waited for a tile", barrier.unseen);
  for (const auto& [tag, memory] : block.named) check(*memory, "a block's");
}

// Runs as many blocks as there are slots, from order[first] on.
void run_wave(const std::vector<uint64_t>& order, size_t first) {
  Machine& m = machine;
  m.policy = draw_policy();
  m.active.clear();
  m.tiles.clear();
  m.last_warp = -1;
  m.at_grid_barrier = 0;
  m.alive = static_cast<int>(m.thread_count);
  if (watcher) watcher->wave_begins();
  for (size_t slot = 0; slot < m.blocks.size(); ++slot)
    start_block(m.blocks[slot], slot, order[first + slot]);
  run_resident();
  if (m.error) std::rethrow_exception(std::exchange(m.error, nullptr));
  if (!m.alive && !m.tiles.empty())
    fail(Fault::async, "a block ends that has not waited for a tile", m.tiles.front().site);
  if (m.alive) fail(Fault::deadlock, "deadlock: no thread can run" + waiting_threads(), {});
  for (const Block& block : m.blocks) check_block_end(block);
}

// Leaves the machine as the next launch wants it. After an error fibers stand somewhere in the
// kernel: they are dropped.
struct LaunchEnd {
  bool completed = false;
  ~LaunchEnd() {
    machine.blocks.clear();
    machine.tiles.clear();
    machine.running = false;
    if (completed) return;
    machine.thread_count = 0;
    machine.error = nullptr;
    machine.current = nullptr;
  }
};

}  // namespace

Options& options() {
  static Options o = options_of_environment();
  return o;
}

void check_shape(const LaunchShape& s) {
  const size_t threads = volume(s.block), blocks = volume(s.grid);
  const auto refuse = [](const std::string& text) { fail(Fault::launch, "launch: " + text, {}); };
  if (threads == 0 || threads > kMaxBlockThreads || s.block.z > kMaxBlockDepth)
    refuse("a block has 1 to 1024 threads, got " + std::to_string(threads));
  if (blocks == 0 || s.grid.x > kMaxGridX || s.grid.y > kMaxGridYZ || s.grid.z > kMaxGridYZ)
    refuse("a grid has 1 to 2147483647 x 65535 x 65535 blocks, got " + std::to_string(s.grid.x) +
           " x " + std::to_string(s.grid.y) + " x " + std::to_string(s.grid.z));
  if (s.shared_bytes > options().shared_limit)
    refuse("shared memory is limited to " + std::to_string(options().shared_limit) +
           " bytes, got " + std::to_string(s.shared_bytes));
  if (s.cooperative && threads * blocks > kMaxResident)
    refuse("a cooperative launch may have 32768 threads here, got " +
           std::to_string(threads * blocks));
}

void Call::run(const LaunchShape& shape) {
  const InSimulator guard;
  check_arguments();
  cudasim::run(
      shape, [](void* self) { static_cast<Call*>(self)->thread(); }, this, bytes_);
}

void run(const LaunchShape& shape, void (*entry)(void*), void* closure, size_t closure_bytes) {
  static std::mutex one_at_a_time;
  if (machine.current) fail(Fault::launch, "launch: a kernel cannot launch a kernel", {});
  const std::lock_guard lock(one_at_a_time);
  check_shape(shape);
  Machine& m = machine;
  const size_t blocks = volume(shape.grid), resident = shape.cooperative ? blocks : 1;
  const size_t threads = volume(shape.block);
  LaunchEnd end;
  m.running = true;
  m.shape = shape;
  m.entry = entry;
  m.closure = closure;
  m.closure_bytes = closure_bytes;
  m.block_threads = static_cast<int>(threads);
  m.random_state = options().seed * kGolden | 1;
  m.idle_spins = 0;
  m.host = Fiber();
  blockDim = shape.block;
  gridDim = shape.grid;
  for (int i = 0; i < 4; ++i) m.random();  // the first numbers of small seeds are alike
  prepare_threads(resident * threads);
  m.warps.assign(resident * ((threads + kWarpLanes - 1) / kWarpLanes), {});
  m.blocks = std::vector<Block>(resident);
  const std::vector<uint64_t> order = block_order(blocks);
  if (watcher) watcher->launch_begins();
  for (size_t first = 0; first < blocks; first += resident) run_wave(order, first);
  check_device_ends({});
  if (watcher) watcher->launch_ends();
  end.completed = true;
}

}  // namespace cudasim
