// SPDX-License-Identifier: Apache-2.0
// cp.async: the destination is NaN from the copy's issue to the wait that covers its group, and the
// source is read at either end, so that a wait that is missing or too weak gives NaN.
#include <cstring>

#include "machine.h"

namespace cudasim {
namespace {

void land(const std::vector<AsyncCopy>& group) {
  for (const AsyncCopy& c : group) {
    if (watcher)
      watcher->engine_access(c.dst, static_cast<size_t>(c.bytes), AccessKind::write, c.site);
    const char* data = c.early ? c.data.data() : c.src;
    std::memset(c.dst, 0, static_cast<size_t>(c.bytes));
    std::memcpy(c.dst, data, static_cast<size_t>(c.source_bytes));
  }
}

}  // namespace

void copy_async(void* shared, const void* global, size_t bytes, size_t zeros, Site site) {
  const InSimulator guard;
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail(Fault::alignment, "an asynchronous copy moves 4, 8 or 16 bytes", site);
  check_alignment(shared, bytes, site);
  check_alignment(global, bytes, site);
  AsyncCopy c{static_cast<char*>(shared),
              static_cast<const char*>(global),
              static_cast<int>(bytes),
              static_cast<int>(bytes - zeros),
              machine.random() % 2 == 0,
              {},
              site};
  if (watcher && bytes > zeros) watcher->access(global, bytes - zeros, AccessKind::read, site);
  if (watcher)
    watcher->access(shared, bytes, AccessKind::write, site);  // from now on, until it lands
  if (c.early) std::memcpy(c.data.data(), global, bytes - zeros);
  std::memset(shared, 0xFF, bytes);
  machine.current->open.push_back(c);
}

void commit_copies() {
  const InSimulator guard;
  Thread& self = *machine.current;
  self.committed.push_back(std::move(self.open));
  self.open.clear();
}

void wait_copies(int may_remain) {
  const InSimulator guard;
  std::deque<std::vector<AsyncCopy>>& groups = machine.current->committed;
  while (static_cast<int>(groups.size()) > may_remain) {
    land(groups.front());
    groups.pop_front();
  }
}

void finish_copies(Thread& t) {
  if (!t.open.empty()) commit_copies();
  wait_copies(0);
}

}  // namespace cudasim
