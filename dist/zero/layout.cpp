// SPDX-License-Identifier: Apache-2.0
#include "pinion/dist/zero/layout.h"

namespace pinion::dist {
namespace {

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

ZeroLayout lay_out(std::span<const int64_t> numels, std::span<const int> units, int64_t alignment,
                   int ranks, int64_t bucket_elements) {
  ZeroLayout out;
  const auto close = [&] {
    if (out.segments.empty()) return;
    ZeroLayout::Segment& s = out.segments.back();
    s.end = out.size = s.begin + round_up(out.size - s.begin, ranks * kNormCell);
  };
  bool alone = false;  // the last parameter was large
  for (size_t i = 0; i < numels.size(); ++i) {
    const int64_t n = round_up(numels[i], alignment);
    const int64_t filled = out.segments.empty() ? 0 : out.size - out.segments.back().begin;
    const bool open = !out.segments.empty() && out.segments.back().unit == units[i];
    const bool large = 4 * n > bucket_elements;
    const bool fits = filled == 0 || n == 0 || (!large && !alone && filled + n <= bucket_elements);
    if (!open || (units[i] < 0 && !fits)) {
      close();
      out.segments.push_back({i, i, units[i], out.size, out.size});
    }
    out.offsets.push_back(out.size);
    out.size += n;
    out.segments.back().end_item = i + 1;
    if (n > 0) alone = large;
  }
  close();
  return out;
}

}  // namespace pinion::dist
