// SPDX-License-Identifier: Apache-2.0
// Sharded state for checkpoints: slices of logical tensors, and whole tensors gathered from them.
#include <unordered_map>

#include "pinion/dist/zero/impl.h"

namespace pinion::dist {

using optim::Arena;

std::vector<optim::StateSlice> Zero::Impl::parameter_slices() {
  std::vector<optim::StateSlice> out;
  for (Arena* arena : optimizer_.arenas())
    for (size_t i = 0; i < arena->items().size(); ++i) {
      const Arena::Item& item = arena->items()[i];
      const Arena::Share share = arena->share_of(i);
      const Tensor& piece = arena->parts()[share.part].params;
      out.push_back({item.name, item.param.shape(), share.begin,
                     piece.rows(share.in_part, share.in_part + share.count)});
    }
  return out;
}

void Zero::Impl::load_parameter_slices(const optim::ReadSlice& read) {
  std::vector<nn::NamedTensor> into, from;
  for (const optim::StateSlice& slice : parameter_slices()) {
    const Tensor given = read(slice);
    PINION_REQUIRE(checkpoint, given.defined() && given.numel() == slice.values.numel(),
                   "ZeRO: expected ", slice.values.numel(), " elements of ", slice.name);
    into.push_back({slice.name, slice.values});
    from.push_back({slice.name, given.alias({given.numel()})});
  }
  nn::copy_state("ZeRO", into, from);
  for (Segment& s : segments_)
    if (s.unit < 0) group_.all_gather(s.params, piece_of(s).params).wait();
  release_all();
}

std::vector<nn::NamedTensor> Zero::Impl::state() {
  std::unordered_map<std::string, Tensor> whole;
  std::vector<optim::StateSlice> slices = optimizer_.state_slices();
  for (Segment& s : segments_) {
    const Arena::Part& part = piece_of(s);
    const int64_t count = part.end - part.begin;
    for (size_t b = 0; b < s.arena->state_count(); ++b) {
      Tensor all({s.size}, s.arena->dtype(), s.arena->device());
      group_.all_gather(all, s.arena->state_block(b).rows(part.state, part.state + count)).wait();
      for (size_t i = s.first; i < s.end; ++i) {
        const std::string& name = s.arena->items()[items_[i].index].name;
        whole[s.arena->state_name(b) + "." + name] = place(items_[i], all).clone();
      }
    }
  }
  std::vector<nn::NamedTensor> out;
  for (optim::StateSlice& slice : slices) {
    const auto found = whole.find(slice.name);
    Tensor value = found == whole.end() ? slice.values.alias(slice.shape) : found->second;
    out.push_back({std::move(slice.name), std::move(value)});
  }
  return out;
}

}  // namespace pinion::dist
