// SPDX-License-Identifier: Apache-2.0
// Lays parameters out in one block and finds the ranges that an update may cover at once.
#include "pinion/optim/arena.h"

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
    item.grad = piece(grads_, item);
    item.param.set_grad_slot(item.grad);
    item.home = item.param.view().data;
  }
  ranges_.reserve(items_.size());
  if (dtype == DType::f32) low_ = std::make_unique<nn::LowPrecisionCopy>(params_);
}

Tensor Arena::piece(const Tensor& block, const Item& item) const {
  return block.rows(item.offset, item.offset + item.numel).alias(item.param.shape());
}

size_t Arena::add_state(std::string name) {
  const MemoryTagScope tag(MemoryTag::optimizer);
  states_.push_back({std::move(name), Tensor::zeros({size()}, dtype(), device())});
  return states_.size() - 1;
}

void Arena::list_state(std::vector<nn::NamedTensor>& out) {
  for (const Item& item : items_) {
    for (const State& state : states_)
      out.push_back({state.name + "." + item.name, piece(state.block, item)});
    out.push_back({"step." + item.name, Tensor::of<int64_t>({item.steps}, {})});
  }
}

std::span<const Arena::Range> Arena::ranges() {
  ranges_.clear();
  for (size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    PINION_CHECK(item.param.view().data == item.home, "optimizer: parameter ", item.name,
                 " was moved away since the optimizer was made, by a second optimizer perhaps");
    if (!item.param.grad().defined()) continue;
    const int64_t end = i + 1 < items_.size() ? items_[i + 1].offset : size();
    if (!ranges_.empty() && ranges_.back().end_item == i && ranges_.back().steps == item.steps)
      ranges_.back().end_item = i + 1, ranges_.back().end = end;
    else
      ranges_.push_back({i, i + 1, item.offset, end, item.steps});
  }
  return ranges_;
}

void Arena::count_step(const Range& range) {
  for (size_t i = range.first_item; i < range.end_item; ++i) ++items_[i].steps;
}

void Arena::zero_grad() {
  for (Item& item : items_) item.param.set_grad({});
}

}  // namespace pinion::optim
