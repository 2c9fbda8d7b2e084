// SPDX-License-Identifier: Apache-2.0
// Barriers of a block and of a grid, and the shared memory of a block.
#include <cstring>

#include "machine.h"

namespace cudasim {
namespace {

void check_arrival(const Barrier& barrier, const Block& block, int id, int threads, int expected,
                   const char* what, Site site) {
  const std::string name = std::string(what) + ": ";
  if (id < 0 || id >= kNamedBarriers)
    fail(Fault::divergence, name + "there is no barrier " + std::to_string(id), site);
  if (threads % kWarpLanes != 0)
    fail(Fault::divergence, name + "the number of threads must be a multiple of 32", site);
  if (barrier.arrived && barrier.expected != expected)
    fail(Fault::divergence,
         name + "expects " + std::to_string(expected) + " threads, but those that wait at " +
             text_of(barrier.site) + " expect " + std::to_string(barrier.expected),
         site);
  if (barrier.arrived && barrier.site != site)
    fail(Fault::divergence, name + "other threads of the block wait at " + text_of(barrier.site),
         site);
  const int exited = machine.block_threads - block.alive;
  if (threads == 0 && exited > 0)
    fail(Fault::divergence,
         name + std::to_string(exited) + " threads of the block have exited before", site);
}

Thread* threads_of(const Block& block) {
  return machine.threads.get() + (&block - machine.blocks.data()) * machine.block_threads;
}

void release(Block& block, int id) {
  Barrier& barrier = block.barriers[static_cast<size_t>(id)];
  Thread* threads = threads_of(block);
  std::vector<Warp*> warps;
  for (int i = 0; i < machine.block_threads; ++i) {
    Thread& t = threads[i];
    if (t.state != State::in_barrier || t.barrier != id) continue;
    if (warps.empty() || warps.back() != t.warp) warps.push_back(t.warp);
    t.barrier = -1;
    t.barrier_result = barrier.count;
    if (&t == machine.current)
      t.state = State::runnable;
    else
      make_runnable(t);
  }
  barrier = {};
  if (watcher) watcher->warps_meet(block, warps);
}

}  // namespace

int block_barrier(int id, int threads, bool predicate, const char* what, Site site) {
  const InSimulator guard;
  Thread& self = *machine.current;
  Block& block = *self.block;
  const int expected = threads ? threads : machine.block_threads;
  Barrier& barrier = block.barriers[static_cast<size_t>(id) % kNamedBarriers];
  check_arrival(barrier, block, id, threads, expected, what, site);
  barrier.expected = expected;
  barrier.site = site;
  barrier.count += predicate;
  self.what = what;
  self.site = site;
  self.state = State::in_barrier;
  self.barrier = id;
  if (++barrier.arrived < expected) {
    reschedule();
    return self.barrier_result;
  }
  release(block, id);
  const bool random = machine.policy == Policy::uniform || machine.policy == Policy::sticky;
  if (random && machine.random() % 2) {  // the last to arrive need not be the first to go on
    make_runnable(self);
    reschedule();
  }
  return self.barrier_result;
}

void grid_barrier(Site site) {
  const InSimulator guard;
  if (!machine.shape.cooperative)
    fail(Fault::launch, "grid barrier: the launch is not cooperative", site);
  Thread& self = *machine.current;
  self.what = "the grid barrier";
  self.site = site;
  self.state = State::in_grid;
  if (++machine.at_grid_barrier < static_cast<int>(machine.thread_count)) return reschedule();
  machine.at_grid_barrier = 0;
  if (watcher) watcher->grid_meets();
  for (size_t i = 0; i < machine.thread_count; ++i)
    if (Thread& t = machine.threads[i]; &t != &self && t.state == State::in_grid) make_runnable(t);
  self.state = State::runnable;
}

void check_exit(const Thread& t) {
  for (const Barrier& barrier : t.block->barriers)
    if (barrier.arrived && barrier.expected == machine.block_threads)
      fail(Fault::divergence,
           "a thread exits while others of its block wait at " + text_of(barrier.site), {});
  for_lanes(t.warp->waiting, [&](int l) {
    const Thread& other = *t.warp->lanes[static_cast<size_t>(l)];
    if (other.mask >> t.lane & 1)
      fail(Fault::divergence,
           "a lane exits while lane " + std::to_string(l) + " waits for it in " + other.what +
               " at " + text_of(other.site),
           {});
  });
  if (machine.at_grid_barrier)
    fail(Fault::divergence, "a thread exits while others wait at the grid barrier", {});
}

void* dynamic_shared(size_t alignment, Site site) {
  const InSimulator guard;
  constexpr size_t kGiven = 1024;  // what device.cuh declares
  if (alignment > kGiven)
    fail(Fault::alignment, "dynamic shared memory is aligned to 1024 bytes, not more", site);
  GuardedMemory* memory = machine.current->block->dynamic.get();
  if (!memory) fail(Fault::shared, "the launch asked for no dynamic shared memory", site);
  return memory->data();
}

void* named_shared(const void* tag, size_t bytes, size_t alignment, Site site) {
  const InSimulator guard;
  Block& block = *machine.current->block;
  std::unique_ptr<GuardedMemory>& memory = block.named[tag];
  if (!memory) {
    memory = std::make_unique<GuardedMemory>(bytes, alignment, Space::shared);
    size_t total = machine.shape.shared_bytes;
    for (const auto& [key, each] : block.named) total += each->bytes();
    if (total > options().shared_limit)
      fail(Fault::shared,
           "the block wants " + std::to_string(total) + " bytes of shared memory, the limit is " +
               std::to_string(options().shared_limit),
           site);
  }
  return memory->data();
}

}  // namespace cudasim
