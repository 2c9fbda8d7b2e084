// SPDX-License-Identifier: Apache-2.0
// The optimizer's step. Where ranks reach each other's memory, stage 1 reduces, updates and gathers
// in one walk: a chunk of everyone's gradients is summed where it lies, the sum goes into the
// update while it is in the cache, and the new weights go to everyone's parameters.
#include <algorithm>
#include <cstring>

#include "pinion/dist/group/reduce.h"
#include "pinion/dist/zero/impl.h"
#include "pinion/kernels/cpu/parallel.h"
#include "pinion/runtime/device.h"

namespace pinion::dist {

using optim::Arena;

namespace {

constexpr int64_t kChunk = 32 << 10;  // bytes of the sums: with all that goes with them in L2
constexpr int64_t kChunks = 8;        // that a thread takes at a time

}  // namespace

// All ranks decide alike: whoever asked for sums before this step did so on every rank.
void Zero::Impl::before_step() {
  PINION_CHECK(!whole_, "ZeRO: expected no step while Zero::Whole lives");
  fused_ = reaches_ && std::none_of(segments_.begin(), segments_.end(),
                                    [](const Segment& s) { return s.summed; });
  if (!fused_) return finish_gradients();
  close_gradients();  // ends in a meeting: nobody reads parameters or writes gradients any more
}

void Zero::Impl::update_range(Arena& arena, const Arena::Range& range, const Update& update) {
  if (!fused_) return update(range, {});
  const auto s = std::find_if(segments_.begin(), segments_.end(), [&](const Segment& segment) {
    return segment.arena == &arena && segment.part == range.part;
  });
  const CpuContext& context = cpu_context();
  const int64_t step = kChunk / size_of(arena.dtype());
  const auto walk = [&](int64_t from, int64_t to, int64_t) {
    const CpuContextGuard one_thread(1, context.isa);
    Arena::Range chunk = range;
    for (int64_t at = from; at < to; at += step) {
      chunk.begin = range.begin + at, chunk.end = range.begin + std::min(at + step, to);
      update_chunk(*s, chunk, update);
    }
  };
  kernels::for_chunks(context, range.end - range.begin, kChunks * step, walk);
}

void Zero::Impl::update_chunk(Segment& s, const Arena::Range& chunk, const Update& update) {
  const DType dtype = s.arena->dtype();
  const Arena::Part& piece = piece_of(s);
  const int64_t count = chunk.end - chunk.begin, before = group_.rank() * (piece.end - piece.begin);
  const int64_t at = (before + chunk.begin - piece.begin) * size_of(dtype);
  alignas(64) std::byte sums[kChunk];
  std::vector<const void*> in;
  for (const std::byte* grads : s.all_grads) in.push_back(grads + at);
  void* const out = sums;
  dist::reduce(options_.reduce, dtype, in, {&out, 1}, count);
  update(chunk, {sums, {count}, dtype});
  const auto me = static_cast<size_t>(group_.rank()),
             bytes = static_cast<size_t>(count * size_of(dtype));
  for (size_t r = 0; r < s.all_params.size(); ++r)
    if (r != me) std::memcpy(s.all_params[r] + at, s.all_params[me] + at, bytes);
}

void Zero::Impl::after_step() {
  if (fused_) {
    int64_t elements = 0;
    for (Segment& s : segments_) {
      elements += s.size;
      (void)s.params.mut();  // the others have written it unseen
    }
    group_.barrier(elements).wait();  // nobody goes on before all have read and written
  } else {
    std::vector<Work> works;
    for (Segment& s : segments_)
      if (s.unit < 0 && s.expected > 0)
        works.push_back(group_.all_gather(s.params, piece_of(s).params));
    for (Work& work : works) work.wait();
  }
  release_all();  // they are out of date
  sums_ = Sums::spent;
}

}  // namespace pinion::dist
