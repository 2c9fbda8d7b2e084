// SPDX-License-Identifier: Apache-2.0
// Lays parameters out in one block and finds the ranges that an update may cover at once.
#include "pinion/optim/arena.h"

#include <algorithm>

#include "pinion/runtime/allocator.h"

namespace pinion::optim {

Arena::Arena(std::vector<nn::NamedTensor> params) {
  PINION_CHECK(!params.empty(), "arena: expected at least one parameter");
  const DType dtype = params[0].tensor.dtype();
  const Device device = params[0].tensor.device();
  const int64_t unit = kAlignment / size_of(dtype);
  int64_t size = 0;
  for (nn::NamedTensor& p : params) {
    PINION_CHECK(p.tensor.dtype() == dtype && p.tensor.device() == device,
                 "arena: expected parameters of one dtype on one device, got ", p.tensor.dtype(),
                 " on ", p.tensor.device().name(), " for ", p.name);
    const int64_t n = p.tensor.numel();
    items_.push_back({std::move(p.name), p.tensor, {}, size, n, nullptr});
    size += (n + unit - 1) / unit * unit;
  }
  const MemoryTagScope of_parameters(MemoryTag::parameters);
  params_ = Tensor::zeros({size}, dtype, device);
  {
    const MemoryTagScope of_gradients(MemoryTag::gradients);
    grads_ = Tensor::zeros({size}, dtype, device);
  }
  for (Item& item : items_) {
    item.param.rebind(piece(params_, item));
    item.home = item.param.view().data;
  }
  trim(device);  // of where the parameters lay: no step asks for blocks of these sizes
  give_slots();
  size_ = size;
  parts_ = {{0, size, params_, grads_}};
  ranges_.reserve(items_.size());
  if (dtype == DType::f32) low_ = std::make_unique<nn::LowPrecisionCopy>(params_);
}

void Arena::give_slots() {
  for (Item& item : items_) {
    item.grad = piece(grads_, item);
    item.param.set_grad_slot(item.grad);  // moves a gradient that is there already
  }
}

void Arena::move_gradients(Tensor block) {
  PINION_CHECK(block.defined() && block.shape() == grads_.shape() && block.dtype() == dtype() &&
                   block.device() == device(),
               "arena: expected a block ", dtype(), " ", grads_.shape(), " for gradients");
  while (block.version() <= grads_.version()) (void)block.mut();  // versions of gradients only grow
  grads_ = std::move(block);
  parts_[0].grads = grads_;
  give_slots();
}

Tensor Arena::piece(const Tensor& block, const Item& item) const {
  return block.rows(item.offset, item.offset + item.numel).alias(item.param.shape());
}

int64_t Arena::end_of(size_t item) const {
  return item + 1 < items_.size() ? items_[item + 1].offset : size_;
}

// The item whose memory, padding included, holds the element; items without elements hold none.
size_t Arena::item_at(int64_t element) const {
  const auto after = std::upper_bound(items_.begin(), items_.end(), element,
                                      [](int64_t e, const Item& item) { return e < item.offset; });
  return static_cast<size_t>(after - items_.begin()) - 1;
}

size_t Arena::add_state(std::string name) {
  const MemoryTagScope tag(MemoryTag::optimizer);
  const Part& last = parts_.back();
  const int64_t elements = last.state + last.end - last.begin;
  states_.push_back({std::move(name), Tensor::zeros({elements}, dtype(), device())});
  return states_.size() - 1;
}

void Arena::shard(std::span<const int64_t> offsets, int64_t size, std::vector<Part> parts) {
  PINION_CHECK(!sharded_, "arena: expected an arena that is not sharded yet");
  PINION_CHECK(offsets.size() == items_.size() && !parts.empty(),
               "arena: expected an offset for each of ", items_.size(), " parameters, and a part");
  int64_t elements = 0;
  for (Part& p : parts) p.state = std::exchange(elements, elements + p.end - p.begin);
  std::vector<int64_t> old;
  for (size_t i = 0; i < items_.size(); ++i)
    old.push_back(std::exchange(items_[i].offset, offsets[i]));
  size_ = size;
  parts_ = std::move(parts);
  for (State& state : states_) {
    const MemoryTagScope tag(MemoryTag::optimizer);
    const Tensor next = Tensor::zeros({elements}, params_.dtype(), params_.device());
    for (size_t i = 0; i < items_.size(); ++i) {
      const Share share = share_of(i);
      const int64_t from = old[i] + share.begin, to = parts_[share.part].state + share.in_part;
      next.rows(to, to + share.count).copy_(state.block.rows(from, from + share.count));
    }
    state.block = next;
  }
  for (Item& item : items_) item.grad = {}, item.home = nullptr;
  params_ = grads_ = {};
  low_.reset();  // it copies whole blocks
  sharded_ = true;
}

Arena::Share Arena::share_of(size_t item) const {
  const Item& it = items_[item];
  // The first part that ends behind the item's begin.
  const auto part = std::upper_bound(parts_.begin(), parts_.end(), it.offset,
                                     [](int64_t e, const Part& p) { return e < p.end; });
  if (part == parts_.end()) return {};
  const int64_t begin = std::max(it.offset, part->begin);
  const int64_t count = std::min(it.offset + it.numel, part->end) - begin;
  if (count <= 0) return {};
  return {static_cast<size_t>(part - parts_.begin()), begin - it.offset, count,
          begin - part->begin};
}

void Arena::list_state(std::vector<StateSlice>& out) {
  for (size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    const Share share = share_of(i);
    const int64_t at = parts_[share.part].state + share.in_part;
    for (const State& state : states_)
      out.push_back({state.name + "." + item.name, item.param.shape(), share.begin,
                     state.block.rows(at, at + share.count)});
    out.push_back(
        {"step." + item.name, Shape{}, 0, Tensor::of<int64_t>({item.steps}, {int64_t{1}})});
  }
}

bool Arena::has_gradient(const Item& item) const {
  return sharded_ ? item.reached : item.param.grad().defined();
}

std::span<const Arena::Range> Arena::ranges() {
  ranges_.clear();
  if (!sharded_)
    for (const Item& item : items_)
      PINION_CHECK(item.param.view().data == item.home, "optimizer: parameter ", item.name,
                   " was moved away since the optimizer was made, by a second optimizer perhaps");
  for (size_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    for (size_t i = sharded_ ? item_at(part.begin) : 0;
         i < items_.size() && items_[i].offset < part.end; ++i) {
      const Item& item = items_[i];
      const int64_t begin = std::max(item.offset, part.begin), end = std::min(end_of(i), part.end);
      if (begin >= end || !has_gradient(item)) continue;
      Range* last = ranges_.empty() ? nullptr : &ranges_.back();
      if (last && last->part == p && last->end == begin && last->steps == item.steps)
        last->end_item = i + 1, last->end = end;
      else
        ranges_.push_back({p, i, i + 1, begin, end, item.steps});
    }
  }
  return ranges_;
}

void Arena::count_step() {
  for (Item& item : items_)
    if (has_gradient(item)) ++item.steps;
}

void Arena::zero_grad() {
  for (Item& item : items_) item.param.set_grad({}), item.reached = false;
}

}  // namespace pinion::optim
