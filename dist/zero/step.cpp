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

constexpr int64_t kChunk = 16 << 10;  // bytes of the sums: with all that goes with them in L2

}  // namespace

// All ranks decide alike: who asked for the reduced gradients did so on every rank.
void Zero::Impl::before_step() {
  PINION_CHECK(!whole_, "ZeRO: expected no step while Zero::Whole lives");
  fused_ =
      reaches_ && sums_ != Sums::complete &&
      std::none_of(segments_.begin(), segments_.end(), [](const Segment& s) { return s.summed; });
  if (!fused_) return finish_gradients();
  // Its last call is a meeting: from here on nobody reads parameters or writes gradients.
  close_gradients();
}

void Zero::Impl::update_range(Arena& arena, const Arena::Range& range, const Update& update) {
  if (!fused_) return update(range, {});
  Segment& s = *std::find_if(segments_.begin(), segments_.end(), [&](const Segment& segment) {
    return segment.arena == &arena && segment.part == range.part;
  });
  const DType dtype = arena.dtype();
  const int64_t element = size_of(dtype);
  const int64_t begin_of_segment = piece_of(s).begin - group_.rank() * (s.size / group_.size());
  const CpuContext& context = cpu_context();
  kernels::for_chunks(
      context, range.end - range.begin, kChunk / element, [&](int64_t from, int64_t to, int64_t) {
        const CpuContextGuard one_thread(1, context.isa);
        Arena::Range chunk = range;
        chunk.begin = range.begin + from, chunk.end = range.begin + to;
        const int64_t at = (chunk.begin - begin_of_segment) * element;
        alignas(64) std::byte sums[kChunk];
        std::vector<const void*> in;
        for (const std::byte* grads : s.all_grads) in.push_back(grads + at);
        void* const out = sums;
        dist::reduce(options_.reduce, dtype, in, {&out, 1}, to - from);
        update(chunk, {sums, {to - from}, dtype});
        const std::byte* mine = s.all_params[static_cast<size_t>(group_.rank())] + at;
        for (std::byte* params : s.all_params)
          if (params + at != mine)
            std::memcpy(params + at, mine, static_cast<size_t>((to - from) * element));
      });
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
