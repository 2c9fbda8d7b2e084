// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/cpu/scratch.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace pinion::kernels {
namespace {

constexpr int64_t kFirstBlock = 256 << 10;

struct Block {
  char* data;
  int64_t bytes;
};

struct Stack {
  std::vector<Block> blocks;  // each larger than the one before
  int top = -1;               // the block in use
  int64_t height = 0;         // bytes in use of it

  // When all is free again, several blocks become one that would have been enough.
  void collapse() {
    int64_t total = 0;
    for (const Block& b : blocks) total += b.bytes, std::free(b.data);
    blocks.clear();
    top = -1;
    grow(total);
    top = -1;
  }

  bool grow(int64_t bytes) {
    const int64_t wanted = std::max(bytes, blocks.empty() ? kFirstBlock : 2 * blocks.back().bytes);
    auto* data = static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(wanted)));
    if (!data) return false;
    blocks.push_back({data, wanted});
    return true;
  }
  ~Stack() {
    for (const Block& b : blocks) std::free(b.data);
  }
};

thread_local Stack stack;

}  // namespace

Scratch::Scratch(int64_t bytes) {
  Stack& s = stack;
  mark_ = s.height, block_ = s.top;
  bytes = (bytes + 63) / 64 * 64;
  if (s.top < 0) {
    if (s.blocks.size() > 1) s.collapse();
    s.top = 0, s.height = 0;
  }
  while (s.top >= static_cast<int>(s.blocks.size()) ||
         s.height + bytes > s.blocks[static_cast<size_t>(s.top)].bytes) {
    if (s.top + 1 >= static_cast<int>(s.blocks.size())) {
      const bool first = s.blocks.empty();
      if (!s.grow(bytes)) {
        s.top = block_, s.height = mark_;
        fail(ErrorKind::out_of_memory, {"scratch: asked for ", bytes, " bytes of CPU memory"});
      }
      if (first) continue;
    }
    ++s.top, s.height = 0;
  }
  data_ = s.blocks[static_cast<size_t>(s.top)].data + s.height;
  s.height += bytes;
}

Scratch::~Scratch() {
  Stack& s = stack;
  s.height = mark_, s.top = block_;
}

}  // namespace pinion::kernels
