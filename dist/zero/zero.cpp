// SPDX-License-Identifier: Apache-2.0
// Makes a sharded optimizer out of an ordinary one: moves its arenas into segments.
#include "pinion/dist/zero/zero.h"

#include <algorithm>
#include <unordered_map>

#include "pinion/dist/zero/impl.h"
#include "pinion/runtime/contents.h"

namespace pinion::dist {

using optim::Arena;

Zero::Zero(nn::Module& model, optim::Optimizer& optimizer, ProcessGroup& group, ZeroOptions options)
    : impl_(std::make_shared<Impl>(optimizer, group, std::move(options))) {
  impl_->take_over(model);
  optimizer.set_sharding(impl_);
}
Zero::~Zero() = default;
int Zero::stage() const { return impl_->stage(); }
void Zero::set_sync(bool on) { impl_->set_sync(on); }
bool Zero::sync() const { return impl_->sync(); }
void Zero::synchronize() { impl_->synchronize(); }
void Zero::keep_sums() { impl_->keep_sums(); }
Tensor Zero::run(nn::Module& unit, const std::function<Tensor()>& f) { return impl_->run(unit, f); }
Zero::Whole::Whole(Zero& zero) : zero_(zero) { zero_.impl_->begin_whole(); }
Zero::Whole::~Whole() { zero_.impl_->end_whole(); }
std::vector<optim::StateSlice> Zero::parameter_slices() { return impl_->parameter_slices(); }
void Zero::load_parameter_slices(const optim::ReadSlice& read) {
  impl_->load_parameter_slices(read);
}
std::vector<nn::NamedTensor> Zero::state() { return impl_->state(); }

void Zero::Impl::check() const {
  PINION_CHECK(options_.stage >= 1 && options_.stage <= 3, "ZeRO: expected stage 1, 2 or 3, got ",
               options_.stage);
  PINION_CHECK(options_.bucket_bytes > 0, "ZeRO: expected bucket_bytes > 0, got ",
               options_.bucket_bytes);
  PINION_CHECK(options_.reduce == ReduceOp::mean || options_.reduce == ReduceOp::sum,
               "ZeRO: expected mean or sum of gradients, got ", name_of(options_.reduce));
  PINION_CHECK(!optimizer_.is_sharded() && !optimizer_.is_capturable(),
               "ZeRO: expected an optimizer that is neither sharded already nor capturable");
  for (const nn::NamedTensor& p : optimizer_.parameters())
    PINION_CHECK(!p.tensor.grad().defined(), "ZeRO: expected parameters without gradients, but ",
                 p.name, " has one; call zero_grad() first");
}

void Zero::Impl::take_over(nn::Module& model) {
  check();
  broadcast(model);
  const std::vector<int> units = units_of(model);
  size_t first = 0;
  for (Arena* arena : optimizer_.arenas()) {
    move(*arena, std::span(units).subspan(first, arena->items().size()));
    first += arena->items().size();
  }
  order_launches(model);
  hook();
  reach_others();
}

// One rank has nothing to reduce.
void Zero::Impl::reach_others() {
  if (stage() > 1 || group_.size() == 1) return;
  for (Segment& s : segments_) {
    if (s.size == 0) continue;
    s.all_params = group_.reach(s.params);
    s.all_grads = group_.reach(s.grads);
    if (s.all_params.empty() || s.all_grads.empty()) return;
  }
  reaches_ = true;
}

void Zero::Impl::broadcast(nn::Module& model) {
  std::vector<Work> works;
  std::unordered_map<const void*, bool> moved;
  for (Arena* arena : optimizer_.arenas()) {
    works.push_back(group_.broadcast(arena->params(), 0));
    for (const Arena::Item& item : arena->items()) moved[item.home] = true;
  }
  for (const nn::NamedTensor& t : model.state())
    if (t.tensor.numel() > 0 && !moved.count(t.tensor.view().data))
      works.push_back(group_.broadcast(t.tensor, 0));
  for (Work& work : works) work.wait();
}

// The unit of each parameter of the optimizer, in the order of its arenas.
std::vector<int> Zero::Impl::units_of(nn::Module& model) {
  std::unordered_map<const void*, int> unit_of;
  if (options_.stage == 3) {
    if (options_.units.empty()) options_.units = {&model};
    for (nn::Module* module : options_.units) {
      const int unit = static_cast<int>(units_.size());
      units_.push_back({module, {}});
      if (module->parameter_count() < options_.persistent_elements) continue;
      for (const Tensor& p : module->parameters())
        if (p.numel() > 0) unit_of.insert({p.view().data, unit});
    }
  }
  std::vector<int> out;
  for (Arena* arena : optimizer_.arenas())
    for (const Arena::Item& item : arena->items()) {
      const auto found = unit_of.find(item.home);
      out.push_back(item.numel == 0 || found == unit_of.end() ? -1 : found->second);
    }
  return out;
}

void Zero::Impl::move(Arena& arena, std::span<const int> units) {
  std::vector<int64_t> numels;
  for (const Arena::Item& item : arena.items()) numels.push_back(item.numel);
  const int64_t element = size_of(arena.dtype());
  const ZeroLayout layout = lay_out(numels, units, Arena::kAlignment / element, group_.size(),
                                    options_.bucket_bytes / element);
  Tensor grads;  // the pieces of all segments, from stage 2 on
  if (stage() > 1) {
    const MemoryTagScope tag(MemoryTag::gradients);
    grads = Tensor::zeros({layout.size / group_.size()}, arena.dtype(), arena.device());
  }
  std::vector<Arena::Part> parts;
  for (const ZeroLayout::Segment& plan : layout.segments) {
    Segment s{.arena = &arena,
              .part = parts.size(),
              .first = 0,
              .end = 0,
              .unit = plan.unit,
              .size = plan.end - plan.begin};
    move_items(s, layout, plan);
    const int64_t count = s.size / group_.size(), begin = plan.begin + group_.rank() * count;
    const int64_t in_grads = plan.begin / group_.size();
    const MemoryTagScope tag(MemoryTag::parameters);
    parts.push_back({begin, begin + count,
                     s.unit < 0 ? mine(s, s.params) : mine(s, s.params).clone(),
                     stage() == 1 ? mine(s, s.grads) : grads.rows(in_grads, in_grads + count)});
    if (s.unit >= 0) units_[static_cast<size_t>(s.unit)].segments.push_back(segments_.size());
    segments_.push_back(std::move(s));
  }
  arena.shard(layout.offsets, layout.size, std::move(parts));
  for (size_t u = 0; u < units_.size(); ++u) release(static_cast<int>(u));
}

// Gives a segment its blocks, and its items their places in them.
void Zero::Impl::move_items(Segment& s, const ZeroLayout& layout, const ZeroLayout::Segment& plan) {
  {
    const MemoryTagScope tag(MemoryTag::parameters);
    s.params = s.unit < 0 ? group_.symmetric({s.size}, s.arena->dtype(), s.arena->device())
                          : Tensor::zeros({s.size}, s.arena->dtype(), s.arena->device());
  }
  if (stage() == 1) {
    const MemoryTagScope tag(MemoryTag::gradients);
    s.grads = group_.symmetric({s.size}, s.arena->dtype(), s.arena->device());
  }
  s.first = items_.size();
  for (size_t i = plan.first_item; i < plan.end_item; ++i) {
    Item item{s.arena->items()[i].param, s.arena, i, segments_.size(),
              layout.offsets[i] - plan.begin};
    item.param.rebind(place(item, s.params));
    if (stage() == 1)
      item.param.set_grad_slot(place(item, s.grads));
    else
      drop_grad_slot(item.param);
    if (item.param.requires_grad() && item.param.numel() > 0) ++s.expected;
    items_.push_back(std::move(item));
  }
  s.end = items_.size();
}

Tensor Zero::Impl::mine(const Segment& s, const Tensor& block) const {
  const int64_t count = s.size / group_.size();
  return block.rows(group_.rank() * count, (group_.rank() + 1) * count);
}

Tensor Zero::Impl::place(const Item& item, const Tensor& block) const {
  return block.rows(item.offset, item.offset + item.param.numel()).alias(item.param.shape());
}

// A segment is complete when backward() has met its first parameter, so those that begin last in
// the model come first.
void Zero::Impl::order_launches(nn::Module& model) {
  const std::vector<nn::NamedTensor> params = model.named_parameters();
  const auto position = [&](const Segment& s) {
    size_t first = params.size();
    for (size_t i = s.first; i < s.end; ++i) {
      const auto found = std::find_if(params.begin(), params.end(), [&](const auto& p) {
        return p.tensor.same(items_[i].param);
      });
      first = std::min(first, static_cast<size_t>(found - params.begin()));
    }
    return first;
  };
  std::vector<size_t> positions;
  for (size_t i = 0; i < segments_.size(); ++i) {
    order_.push_back(i);
    positions.push_back(position(segments_[i]));
  }
  std::stable_sort(order_.begin(), order_.end(),
                   [&](size_t a, size_t b) { return positions[a] > positions[b]; });
}

void Zero::Impl::hook() {
  for (size_t i = 0; i < items_.size(); ++i)
    if (items_[i].param.requires_grad() && items_[i].param.numel() > 0) {
      items_[i].hooked = true;
      items_[i].param.on_grad_ready([weak = weak_from_this(), i](const Tensor&) {
        if (const auto self = weak.lock()) self->arrive(i);
      });
    }
}

}  // namespace pinion::dist
