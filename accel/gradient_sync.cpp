// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/gradient_sync.h"

#include "pinion/runtime/autograd.h"

namespace pinion::accel {

namespace {

// Moves the buffers of one dtype into one block, so that one broadcast sends them all.
Tensor joined(const std::vector<Tensor>& buffers) {
  int64_t size = 0, at = 0;
  for (const Tensor& t : buffers) size += t.numel();
  Tensor block({size}, buffers[0].dtype(), buffers[0].device());
  for (Tensor t : buffers) {
    t.rebind(block.rows(at, at + t.numel()).alias(t.shape()));
    at += t.numel();
  }
  return block;
}

std::vector<Tensor> joined_by_dtype(const std::vector<nn::NamedTensor>& buffers) {
  std::vector<std::vector<Tensor>> kinds;
  for (const nn::NamedTensor& b : buffers) {
    size_t k = 0;
    while (k < kinds.size() && kinds[k][0].dtype() != b.tensor.dtype()) ++k;
    if (k == kinds.size()) kinds.emplace_back();
    kinds[k].push_back(b.tensor);
  }
  std::vector<Tensor> blocks;
  for (const std::vector<Tensor>& kind : kinds) blocks.push_back(joined(kind));
  return blocks;
}

}  // namespace

GradientSync::GradientSync(dist::ProcessGroup& group, const dist::ReducerOptions& options,
                           bool broadcast_buffers)
    : group_(std::shared_ptr<void>(), &group),  // the Accelerator owns it
      options_(options),
      broadcast_buffers_(broadcast_buffers) {}

void GradientSync::add(nn::Module& module) {
  if (group_->size() == 1) return;
  models_.push_back({&module, joined_by_dtype(module.named_buffers())});
  for (const Tensor& parameter : module.parameters()) group_->broadcast(parameter, 0).wait();
  for (const Tensor& block : models_.back().buffers) group_->broadcast(block, 0).wait();
}

void GradientSync::add(optim::Optimizer& optimizer) {
  optimizers_.push_back(&optimizer);
  reducer_.reset();
}

void GradientSync::forget() {
  models_.clear();
  optimizers_.clear();
  reducer_.reset();
}

void GradientSync::before_forward(nn::Module& module, bool sync) {
  if (!broadcast_buffers_ || !sync || !module.training() || !grad_enabled()) return;
  for (const Model& model : models_)
    if (model.module == &module)
      for (const Tensor& block : model.buffers) group_->broadcast(block, 0).wait();
}

void GradientSync::backward(const Tensor& loss, bool sync) {
  if (group_->size() == 1 || optimizers_.empty()) return pinion::backward(loss);
  if (!reducer_) {
    std::vector<optim::Arena*> arenas;
    for (optim::Optimizer* o : optimizers_)
      for (optim::Arena* arena : o->arenas()) arenas.push_back(arena);
    dist::ReducerOptions options = options_;
    // With several optimizers a loss is often of the models of one.
    if (optimizers_.size() > 1 && options.unused == dist::Unused::error)
      options.unused = dist::Unused::detect;
    reducer_ = std::make_unique<dist::Reducer>(arenas, group_, options);
  }
  if (sync) {
    pinion::backward(loss);
    reducer_->finish();
  } else {
    const auto local = reducer_->no_sync();
    pinion::backward(loss);
  }
}

}  // namespace pinion::accel
