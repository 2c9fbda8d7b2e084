// SPDX-License-Identifier: Apache-2.0
// Who runs next. Switches happen at synchronising operations only; per block a policy is drawn:
// any warp, or one warp as far as it can go, which is what shows a missing barrier.
#include <algorithm>

#include "machine.h"

// The built-in variables of the thread that runs.
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cudasim {

Machine machine;

uint64_t Machine::random() {  // xorshift (Marsaglia 2003)
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

namespace {

// The first set bit from a random place on.
int random_bit(uint32_t bits) {
  const int turn = static_cast<int>(machine.random() % 32);
  const uint32_t turned = bits >> turn | (turn ? bits << (32 - turn) : 0);
  return (__builtin_ctz(turned) + turn) % 32;
}

int pick_warp(Policy policy) {
  const std::vector<int>& active = machine.active;
  switch (policy) {
    case Policy::forward: return *std::min_element(active.begin(), active.end());
    case Policy::reverse: return *std::max_element(active.begin(), active.end());
    case Policy::sticky:
      if (machine.last_warp >= 0 && machine.warps[static_cast<size_t>(machine.last_warp)].runnable)
        return machine.last_warp;
      [[fallthrough]];
    case Policy::uniform: break;
  }
  return active[machine.random() % active.size()];
}

int pick_lane(Policy policy, uint32_t runnable) {
  if (policy == Policy::forward) return __builtin_ctz(runnable);
  if (policy == Policy::reverse) return 31 - __builtin_clz(runnable);
  return random_bit(runnable);
}

// Takes a thread out of the runnable ones; null when there is none.
Thread* pick() {
  land_tiles();
  if (machine.active.empty()) return nullptr;
  const Policy policy = machine.fair_turn ? Policy::uniform : machine.policy;
  machine.fair_turn = false;
  const int at = pick_warp(policy);
  machine.last_warp = at;
  Warp& warp = machine.warps[static_cast<size_t>(at)];
  const int lane = pick_lane(policy, warp.runnable);
  warp.runnable &= ~(1u << lane);
  if (!warp.runnable) {
    const int moved = machine.active.back();
    machine.active[static_cast<size_t>(warp.active_at)] = moved;
    machine.warps[static_cast<size_t>(moved)].active_at = warp.active_at;
    machine.active.pop_back();
    warp.active_at = -1;
  }
  return warp.lanes[static_cast<size_t>(lane)];
}

void enter(Thread* t) {
  machine.current = t;
  if (!t) return;
  threadIdx = t->index;
  blockIdx = t->block->index;
}

// Leaves for a thread, or for the host when there is none.
void leave(Fiber& from) {
  Thread* next = machine.error ? nullptr : pick();
  if (machine.error) next = nullptr;  // of a tile that landed
  enter(next);
  Fiber& to = next ? next->fiber : machine.host;
  if (&to != &from) Fiber::switch_to(from, to);
}

void note_error() {
  if (!machine.error) machine.error = std::current_exception();
}

}  // namespace

void make_runnable(Thread& t) {
  Warp& warp = *t.warp;
  t.state = State::runnable;
  if (!warp.runnable) {
    warp.active_at = static_cast<int>(machine.active.size());
    machine.active.push_back(static_cast<int>(&warp - machine.warps.data()));
  }
  warp.runnable |= 1u << t.lane;
}

void reschedule() { leave(machine.current->fiber); }

void run_resident() {
  leave(machine.host);
  enter(nullptr);
}

void pause(Site site) {
  const InSimulator guard;
  constexpr int64_t kPatience = 1'000'000;  // spins with nobody else to wait for
  Thread& self = *machine.current;
  if (machine.active.empty()) land_tiles();
  if (machine.active.empty() && ++machine.idle_spins > kPatience)
    fail(Fault::deadlock,
         "a spin loop waits, but no other resident thread can run; wait for other "
         "blocks in cooperative launches only",
         site);
  if (machine.active.empty()) return;
  machine.idle_spins = 0;
  make_runnable(self);
  machine.fair_turn = true;
  reschedule();
}

void thread_main() {
  machine.current->fiber.arrive();
  for (;;) {
    Thread& self = *machine.current;
    try {
      self.in_simulator = 0;
      machine.entry(machine.closure);
      self.in_simulator = 1;
      finish_copies(self);
      check_products(self);
    } catch (...) {
      note_error();
    }
    self.in_simulator = 1;
    self.state = State::done;
    --machine.alive;
    --self.block->alive;
    self.warp->exited |= 1u << self.lane;
    try {
      if (!machine.error) check_exit(self);
    } catch (...) {
      note_error();
    }
    reschedule();  // comes back as a thread of another block
  }
}

}  // namespace cudasim
