// SPDX-License-Identifier: Apache-2.0
// How an arena's parameters are cut into segments that every rank owns an equal piece of. The cuts
// depend on the parameters only; the padding behind them on the number of ranks as well.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pinion::dist {

// Pieces are multiples of this many elements, the grain of the norm of gradients (norm.h).
inline constexpr int64_t kNormCell = 64;

struct ZeroLayout {
  struct Segment {
    size_t first_item, end_item;
    int unit;            // -1: in none
    int64_t begin, end;  // elements; a multiple of ranks * kNormCell
  };
  std::vector<int64_t> offsets;  // of the items, in elements
  std::vector<Segment> segments;
  int64_t size = 0;
};

// numels and units (-1: none) of the items, in their order. Items begin at multiples of `alignment`
// elements. Neighbours of one unit are one segment; those of none share segments of at most
// bucket_elements, but one of more than a quarter of that has one to itself: its gradient is
// reduced where backward() left it.
ZeroLayout lay_out(std::span<const int64_t> numels, std::span<const int> units, int64_t alignment,
                   int ranks, int64_t bucket_elements);

}  // namespace pinion::dist
