// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/virtual_shards.h"

#include "pinion/dist/parallel/sync_batch_norm.h"
#include "pinion/kernels/kernels.h"
#include "pinion/nn/noise.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

void VirtualShards::add(nn::Module& module, const std::vector<Tensor>& buffers) {
  PINION_REQUIRE(config, !dist::has_sync_batchnorm(module),
                 "prepare: expected --deterministic or SyncBatchNorm (--sync_bn), got both: the "
                 "statistics of all ranks are those of more or fewer shards as there are ranks");
  models_.push_back({&module, buffers, {}, {}});
}

void VirtualShards::add(optim::Optimizer& optimizer) { optimizers_.push_back(&optimizer); }

void VirtualShards::forget() {
  models_.clear();
  optimizers_.clear();
  leave_round();
}

std::vector<optim::Arena*> VirtualShards::arenas() const {
  std::vector<optim::Arena*> out;
  for (optim::Optimizer* o : optimizers_)
    for (optim::Arena* arena : o->arenas()) out.push_back(arena);
  return out;
}

// The blocks of all arenas, with zeros for parameters that have no gradient.
std::vector<Tensor> VirtualShards::gradients() const {
  std::vector<Tensor> out;
  for (optim::Arena* arena : arenas()) {
    for (const optim::Arena::Item& item : arena->items()) {
      if (item.param.grad().defined()) continue;
      Tensor slot = item.grad;
      on(slot.device(), [&](auto& ctx) { kernels::fill(ctx, slot.mut(), 0); });
    }
    out.push_back(arena->grads());
  }
  return out;
}

std::vector<Tensor> VirtualShards::floating_buffers() const {
  std::vector<Tensor> out;
  for (const Model& model : models_)
    for (const Tensor& block : model.buffers)
      if (is_floating(block.dtype())) out.push_back(block);
  return out;
}

// f64: the weight; for each parameter whether it has a gradient; counters and integer buffers, of
// which those of shard 0 hold for all.
Tensor VirtualShards::numbers(double weight) const {
  std::vector<double> out{weight};
  for (optim::Arena* arena : arenas())
    for (const optim::Arena::Item& item : arena->items())
      out.push_back(item.param.grad().defined() ? 1 : 0);
  const double counts = turn_ == 0 && group_.rank() == 0 ? 1 : 0;
  for (const Model& model : models_) {
    for (const nn::NamedCounter& c : model.module->counters())
      out.push_back(counts * static_cast<double>(c.count));
    for (const Tensor& block : model.buffers)
      if (!is_floating(block.dtype()))
        for (const double v : nn::cast(block, DType::f64).values<double>())
          out.push_back(counts * v);
  }
  return Tensor::of(out, {static_cast<int64_t>(out.size())}).to(arenas()[0]->device());
}

void VirtualShards::begin(int turn) {
  turn_ = turn;
  done_ = false;
  set_noise_part(turn * group_.size() + group_.rank());
  for (Model& model : models_)
    if (turn == 0) {
      model.before.clear();
      for (const Tensor& block : model.buffers) model.before.push_back(block.clone());
      model.counters = model.module->counters();
    } else {
      for (size_t i = 0; i < model.buffers.size(); ++i) model.buffers[i].copy_(model.before[i]);
      model.module->load_counters(model.counters);
    }
}

// Before the first shard's gradients: those of earlier rounds belong to no shard.
void VirtualShards::set_earlier_aside() {
  earlier_.clear();
  earlier_reached_.clear();
  bool any = false;
  for (optim::Arena* arena : arenas())
    for (const optim::Arena::Item& item : arena->items()) {
      earlier_reached_.push_back(item.param.grad().defined());
      any |= earlier_reached_.back();
    }
  if (!any) return;
  for (const Tensor& block : gradients()) earlier_.push_back(block.clone());
  for (optim::Arena* arena : arenas()) arena->zero_grad();
}

std::optional<double> VirtualShards::backward(const Tensor& loss, double weight) {
  PINION_CHECK(turn_ >= 0 && !done_,
               "backward: with deterministic, expected one in each micro-batch");
  PINION_CHECK(!optimizers_.empty(), "backward: with deterministic, expected a prepared optimizer");
  done_ = true;
  if (turn_ == 0) set_earlier_aside();
  pinion::backward(loss);
  std::vector<Tensor> terms = gradients();
  for (const Tensor& block : floating_buffers()) terms.push_back(block);
  terms.push_back(numbers(weight));
  tree_.add(turn_, terms);
  for (optim::Arena* arena : arenas()) arena->zero_grad();
  if (turn_ + 1 < turns()) return std::nullopt;
  return finish_round();
}

double VirtualShards::finish_round() {
  std::vector<Tensor> sums;
  for (optim::Arena* arena : arenas()) sums.push_back(arena->grads());
  const std::vector<Tensor> buffers = floating_buffers();
  sums.insert(sums.end(), buffers.begin(), buffers.end());
  sums.push_back(numbers(0));
  tree_.finish(sums);
  for (Tensor block : buffers)
    on(block.device(),
       [&](auto& ctx) { kernels::affine(ctx, block, 1.0 / shards_, 0, block.mut()); });
  for (size_t i = 0; i < earlier_.size(); ++i)
    on(sums[i].device(),
       [&](auto& ctx) { kernels::add(ctx, earlier_[i], sums[i], sums[i].mut()); });
  const double weight = take_numbers(sums.back().values<double>());
  leave_round();
  return weight;
}

double VirtualShards::take_numbers(const std::vector<double>& sums) {
  auto next = sums.begin();
  const double weight = *next++;
  size_t parameter = 0;
  for (optim::Arena* arena : arenas())
    for (const optim::Arena::Item& item : arena->items()) {
      const bool reached = *next++ > 0 || earlier_reached_[parameter];
      ++parameter;
      if (Tensor reaches = item.param; reached) reaches.set_grad(item.grad);
    }
  for (Model& model : models_) {
    for (nn::NamedCounter& c : model.counters) c.count = static_cast<uint64_t>(*next++);
    model.module->load_counters(model.counters);
    for (Tensor block : model.buffers) {
      if (is_floating(block.dtype())) continue;
      const std::vector<double> values(next, next + block.numel());
      next += block.numel();
      const Tensor from = Tensor::of(values, block.shape()).to(block.device());
      on(block.device(), [&](auto& ctx) { kernels::cast(ctx, from, block.mut()); });
    }
  }
  return weight;
}

}  // namespace pinion::accel
