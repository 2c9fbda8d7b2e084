// SPDX-License-Identifier: Apache-2.0
// wgmma: products of four warps over tiles in shared memory, by the descriptors and the layouts of
// the PTX manual. From the issue to the wait the sums are NaN in the registers; the operands are
// read at either end, and count as read at both.
#include <cstring>

#include "machine.h"

namespace cudasim {
namespace {

constexpr int kGroupRows = 64, kGroupDepth = 16;
constexpr uint32_t kAllGroupWarps = (1u << kGroupWarps) - 1;
constexpr uint32_t kAtomBytes = 1024;  // eight lines of 128 bytes

WarpGroup& group_of(const Thread& t) { return t.block->warp_groups[t.rank / kGroupThreads]; }
size_t warp_in_group(const Thread& t) {
  return static_cast<size_t>(t.rank / kWarpLanes % kGroupWarps);
}
size_t thread_in_group(const Thread& t) { return static_cast<size_t>(t.rank % kGroupThreads); }

// A matrix descriptor in parts; sizes in bytes.
struct Tile {
  uint32_t start, next_lines, next_atom;
  bool down;  // lines lie along rows of a, or along columns of b

  Tile(uint64_t bits, bool is_down, Site site)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        next_lines(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        next_atom(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        down(is_down) {
    if (bits >> 62 != 1)
      fail(Fault::async, "wgmma: a descriptor must say that its tile is swizzled by 128 bytes",
           site);
    if (start % kAtomBytes >= 128)
      fail(Fault::async,
           "wgmma: an operand begins in the first line of 1024 bytes, got byte " +
               std::to_string(start),
           site);
  }
  // Of row (of a; of b, column) i and depth k.
  uint32_t address(int i, int k) const {
    const auto row = static_cast<uint32_t>(i), depth = static_cast<uint32_t>(k);
    const uint32_t at = down ? start + row % 64 * 2 + row / 64 * next_lines + depth % 8 * 128 +
                                   depth / 8 * next_atom
                             : start + row % 8 * 128 + row / 8 * next_atom + depth * 2;
    return at ^ (at >> 7 & 7) << 4;
  }
  float element(int i, int k, float (*widen)(uint16_t), Site site) const {
    uint16_t bits;
    std::memcpy(&bits, at_shared_address(address(i, k), sizeof bits, site), sizeof bits);
    return widen(bits);
  }
  // Rows `first` to `first + rows - 1`, in pieces of 16 bytes.
  void touch(int first, int rows, Site site) const {
    const int row_step = down ? 8 : 1, depth_step = down ? 1 : 8;
    for (int i = first; i < first + rows; i += row_step)
      for (int k = 0; k < kGroupDepth; k += depth_step)
        watcher->engine_access(at_shared_address(address(i, k), 16, site), 16, AccessKind::read,
                               site);
  }
};

// The calling warp's share of what a product reads: its rows of a, and all of b.
void touch_operands(const GroupProduct& product) {
  if (!watcher) return;
  const TileProduct& form = product.form;
  const auto warp = static_cast<int>(warp_in_group(*machine.current));
  Tile(form.a, form.down_a, product.site).touch(warp * 16, 16, product.site);
  Tile(form.b, form.down_b, product.site).touch(0, form.columns, product.site);
}

void read_operands(GroupProduct& product) {
  if (!product.values.empty()) return;
  const TileProduct& form = product.form;
  const Tile a(form.a, form.down_a, product.site), b(form.b, form.down_b, product.site);
  product.values.assign(static_cast<size_t>(kGroupRows * form.columns), 0.0f);
  std::vector<float> right(static_cast<size_t>(form.columns));
  for (int k = 0; k < kGroupDepth; ++k) {
    for (int j = 0; j < form.columns; ++j)
      right[static_cast<size_t>(j)] = b.element(j, k, form.widen, product.site);
    for (int i = 0; i < kGroupRows; ++i) {
      const float value = a.element(i, k, form.widen, product.site);
      float* row = product.values.data() + i * form.columns;
      for (int j = 0; j < form.columns; ++j) row[j] += value * right[static_cast<size_t>(j)];
    }
  }
}

size_t sums_of_thread(const TileProduct& form) { return static_cast<size_t>(form.columns) / 2; }

// The registers of the calling thread's warp belong to the product from now on.
void take_sums(WarpGroup& group, GroupProduct& product, Thread& t, float* sums) {
  const size_t count = sums_of_thread(product.form);
  product.sums[thread_in_group(t)] = sums;
  auto& held = group.threads[thread_in_group(t)].held;
  if (held.contains(sums)) return;  // a product before this one has them
  held[sums].assign(sums, sums + count);
  std::memset(sums, 0xFF, count * sizeof(float));
}

struct Issue {
  TileProduct form;
  Site site;

  static void execute(void* const* operands, uint32_t) {
    Thread& self = *machine.current;
    WarpGroup& group = group_of(self);
    WarpGroup::OfWarp& warp = group.warps[warp_in_group(self)];
    const Issue& own = *static_cast<Issue*>(operands[self.lane]);
    if (!warp.begun)
      fail(Fault::async, "wgmma: a fence must come before the first product of a group", own.site);
    if (group.products.size() == warp.issued) group.products.push_back({own.form, own.site});
    GroupProduct& product = group.products[warp.issued++];
    if (!(product.site == own.site))
      fail(Fault::divergence,
           "wgmma: another warp of the group issues the product at " + text_of(product.site),
           own.site);
    for (int l = 0; l < kWarpLanes; ++l) {
      const TileProduct& form = static_cast<Issue*>(operands[l])->form;
      if (form.a != product.form.a || form.b != product.form.b)
        fail(Fault::divergence, "wgmma: threads of the group disagree on the descriptors",
             own.site);
      take_sums(group, product, *self.warp->lanes[static_cast<size_t>(l)], form.sums);
    }
    touch_operands(product);
    product.issued |= 1u << warp_in_group(self);
    if (product.issued != kAllGroupWarps) return;
    if (machine.random() % 2) read_operands(product);
    for (Thread* t : group.waiting) make_runnable(*t);
    group.waiting.clear();
  }
};

// Adds the calling thread's part to its sums, and gives the registers back after the last product.
void finish(WarpGroup& group, GroupProduct& product) {
  const Thread& self = *machine.current;
  if (self.lane == 0) touch_operands(product);
  read_operands(product);
  const auto rank = static_cast<int>(thread_in_group(self));
  WarpGroup::OfThread& thread = group.threads[static_cast<size_t>(rank)];
  float* const sums = product.sums[static_cast<size_t>(rank)];
  std::vector<float>& held = thread.held[sums];
  for (int s = 0; s < product.form.columns / 2; ++s) {
    const int row = rank / 32 * 16 + rank % 32 / 4 + s / 2 % 2 * 8;
    const int column = s / 4 * 8 + rank % 4 * 2 + s % 2;
    held[static_cast<size_t>(s)] +=
        product.values[static_cast<size_t>(row * product.form.columns + column)];
  }
  ++thread.finished;
  for (size_t p = thread.finished; p < group.products.size(); ++p)
    if (group.products[p].sums[static_cast<size_t>(rank)] == sums) return;
  std::memcpy(sums, held.data(), held.size() * sizeof(float));
  thread.held.erase(sums);
}

void wait_until_issued(WarpGroup& group, const GroupProduct& product, Site site) {
  Thread& self = *machine.current;
  while (product.issued != kAllGroupWarps) {
    self.what = "wgmma.wait_group, for a product that other warps have not issued,";
    self.site = site;
    self.state = State::in_async;
    group.waiting.push_back(&self);
    reschedule();
  }
}

}  // namespace

void begin_products(Site site) {
  const InSimulator guard;
  warp_operation({"wgmma.fence"}, kAllLanes, nullptr, site);
  group_of(*machine.current).warps[warp_in_group(*machine.current)].begun = true;
}

void multiply_tiles(const TileProduct& product, Site site) {
  const InSimulator guard;
  Issue issue{product, site};
  warp_operation({"wgmma.mma_async", Issue::execute}, kAllLanes, &issue, site);
}

void commit_products() {
  const InSimulator guard;
  const auto execute = [](void* const*, uint32_t) {
    WarpGroup::OfWarp& warp = group_of(*machine.current).warps[warp_in_group(*machine.current)];
    warp.ends.push_back(warp.issued);
    warp.begun = false;
  };
  warp_operation({"wgmma.commit_group", execute}, kAllLanes, nullptr, {});
}

void wait_products(int may_remain, Site site) {
  const InSimulator guard;
  warp_operation({"wgmma.wait_group"}, kAllLanes, nullptr, site);
  const Thread& self = *machine.current;
  WarpGroup& group = group_of(self);
  const std::vector<size_t>& ends = group.warps[warp_in_group(self)].ends;
  const auto remain = static_cast<size_t>(may_remain);
  const size_t end = ends.size() > remain ? ends[ends.size() - 1 - remain] : 0;
  const size_t& finished = group.threads[thread_in_group(self)].finished;
  while (finished < end) {
    wait_until_issued(group, group.products[finished], site);
    finish(group, group.products[finished]);
  }
}

void check_products(const Thread& t) {
  const InSimulator guard;
  const auto found = t.block->warp_groups.find(t.rank / kGroupThreads);
  if (found == t.block->warp_groups.end()) return;
  const WarpGroup& group = found->second;
  const size_t finished = group.threads[thread_in_group(t)].finished;
  if (finished < group.warps[warp_in_group(t)].issued)
    fail(Fault::async, "a thread exits before a product of its warp group is waited for",
         group.products[finished].site);
}

}  // namespace cudasim
