// SPDX-License-Identifier: Apache-2.0
// Operations of a warp: all lanes of a mask meet in one operation with one mask, at one line.
#include <cstring>

#include "machine.h"

namespace cudasim {
namespace {

void check_mask(const WarpOperation& op, const Warp& warp, const Thread& self, uint32_t mask,
                Site site) {
  const std::string name = std::string(op.name) + ": ";
  if (!(mask >> self.lane & 1))
    fail(Fault::mask, name + "the calling lane is not in its own mask " + text_of_mask(mask), site);
  if (mask & ~warp.existing)
    fail(Fault::mask,
         name + "mask " + text_of_mask(mask) + " names lanes that do not exist; the warp has " +
             text_of_mask(warp.existing),
         site);
  if (mask & warp.exited)
    fail(Fault::mask,
         name + "mask " + text_of_mask(mask) +
             " names lanes that have exited: " + text_of_mask(mask & warp.exited),
         site);
}

bool same(const Thread& other, const WarpOperation& op, uint32_t mask, Site site) {
  return other.mask == mask && other.site == site &&
         (other.what == op.name || std::strcmp(other.what, op.name) == 0);
}

// Whether all lanes of the mask wait in this operation; fails when one of them waits for us in
// another, for then neither can be completed.
bool everybody_is_here(const WarpOperation& op, const Warp& warp, const Thread& self, uint32_t mask,
                       Site site) {
  bool complete = (warp.waiting & mask) == mask;
  for_lanes(warp.waiting & mask, [&](int l) {
    const Thread& other = *warp.lanes[static_cast<size_t>(l)];
    if (same(other, op, mask, site)) return;
    complete = false;
    if (other.mask >> self.lane & 1)
      fail(Fault::divergence,
           "lane " + std::to_string(l) + " waits in " + other.what + " (mask " +
               text_of_mask(other.mask) + ") at " + text_of(other.site) +
               " while this lane is in " + op.name + " (mask " + text_of_mask(mask) + ")",
           site);
  });
  return complete;
}

}  // namespace

int lane() { return machine.current->lane; }

void fence() {
  const InSimulator guard;
  if (watcher) watcher->fence();
}

void touch_atomically(const void* p, size_t bytes, Site site) {
  const InSimulator guard;
  if (watcher) watcher->access(p, bytes, AccessKind::atomic, site);
}

void warp_operation(const WarpOperation& op, uint32_t mask, void* operand, Site site) {
  const InSimulator guard;
  Thread& self = *machine.current;
  Warp& warp = *self.warp;
  check_mask(op, warp, self, mask, site);
  self.what = op.name;
  self.site = site;
  self.mask = mask;
  self.operand = operand;
  warp.waiting |= 1u << self.lane;
  if (!everybody_is_here(op, warp, self, mask, site)) {
    self.state = State::in_warp;
    reschedule();
    return;
  }
  if (op.execute) {
    std::array<void*, kWarpLanes> operands{};
    for_lanes(mask, [&](int l) {
      operands[static_cast<size_t>(l)] = warp.lanes[static_cast<size_t>(l)]->operand;
    });
    op.execute(operands.data(), mask);
  }
  if (watcher && op.orders_memory) watcher->lanes_meet(*self.block, warp, mask);
  warp.waiting &= ~mask;
  for_lanes(mask & ~(1u << self.lane),
            [&](int l) { make_runnable(*warp.lanes[static_cast<size_t>(l)]); });
}

}  // namespace cudasim
