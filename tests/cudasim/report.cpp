// SPDX-License-Identifier: Apache-2.0
// The text of what the simulator finds.
#include <cstdio>
#include <cstring>

#include "machine.h"

namespace cudasim {
namespace {

std::string text_of(const uint3& at) {
  return "(" + std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z) + ")";
}

}  // namespace

std::string text_of(Site site) {
  if (!site.line) return "the end of the kernel";
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string text_of_mask(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

void fail(Fault fault, const std::string& text, Site site) {
  const InSimulator guard;
  const Thread* t = machine.current;
  std::string where = "cudasim: " + text + ", at " + text_of(site);
  if (!t) throw Error(fault, where, site, {}, {});
  where += " [block " + text_of(t->block->index) + " thread " + text_of(t->index) + " warp " +
           std::to_string(t->rank / kWarpLanes) + " lane " + std::to_string(t->lane) + "]";
  throw Error(fault, where, site, t->block->index, t->index);
}

std::string waiting_threads() {
  constexpr int kShown = 8;
  std::string text;
  int waiting = 0;
  for (size_t i = 0; i < machine.thread_count; ++i) {
    const Thread& t = machine.threads[i];
    if (t.state == State::done || ++waiting > kShown) continue;
    text += "\n  block " + text_of(t.block->index) + " thread " + text_of(t.index) + " waits in " +
            t.what + " at " + text_of(t.site);
    if (t.state == State::in_warp) text += ", mask " + text_of_mask(t.mask);
  }
  if (waiting > kShown) text += "\n  and " + std::to_string(waiting - kShown) + " more";
  return text;
}

}  // namespace cudasim
