// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/gradient_sync.h"

#include <algorithm>

#include "pinion/accel/track/profile.h"
#include "pinion/dist/parallel/flat_buffers.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

namespace {

// Several models as one.
struct Together final : nn::Module {
  std::vector<nn::Module*> models;
  void fields(nn::Fields& f) override {
    for (size_t i = 0; i < models.size(); ++i) f(std::to_string(i), *models[i]);
  }
};

bool has(const std::vector<Tensor>& list, const Tensor& tensor) {
  return std::any_of(list.begin(), list.end(), [&](const Tensor& t) { return t.same(tensor); });
}

bool share_any(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::any_of(a.begin(), a.end(), [&](const Tensor& t) { return has(b, t); });
}

}  // namespace

GradientSync::GradientSync(dist::ProcessGroup& group, const dist::ReducerOptions& options,
                           bool broadcast_buffers, const dist::ZeroOptions& zero,
                           int virtual_shards)
    : group_(std::shared_ptr<void>(), &group),  // the Accelerator owns it
      options_(options),
      broadcast_buffers_(broadcast_buffers),
      zero_(zero) {
  PINION_REQUIRE(config, zero_.stage == 0 || !options_.hook,
                 "Accelerator: expected no hook of gradients with ZeRO, which reduces shards; got "
                 "one, and stage ",
                 zero_.stage);
  if (virtual_shards == 0) return;
  PINION_REQUIRE(config, zero_.stage == 0 && !options_.hook,
                 "Accelerator: deterministic expects gradients that are whole: no ZeRO, got stage ",
                 zero_.stage, ", and no hook, got ", options_.hook ? "one" : "none");
  shards_.emplace(group, virtual_shards);
}

void GradientSync::add(nn::Module& module) {
  if (group_->size() == 1 && !shards_) return;
  models_.push_back({&module, dist::flatten_by_dtype(module.named_buffers())});
  if (shards_) shards_->add(module, models_.back().buffers);
  for (const Tensor& parameter : module.parameters()) group_->broadcast(parameter, 0).wait();
  for (const Tensor& block : models_.back().buffers) group_->broadcast(block, 0).wait();
}

void GradientSync::add(optim::Optimizer& optimizer) {
  optimizers_.push_back({&optimizer, nullptr, {}});
  if (shards_) shards_->add(optimizer);
  reducer_.reset();
}

void GradientSync::forget() {
  models_.clear();
  optimizers_.clear();
  reducer_.reset();
  if (shards_) shards_->forget();
}

void GradientSync::before_forward(nn::Module& module, bool sync) {
  if (!broadcast_buffers_ || shards_ || !sync || !module.training() || !grad_enabled()) return;
  for (const Model& model : models_)
    if (model.module == &module)
      for (const Tensor& block : model.buffers) group_->broadcast(block, 0).wait();
}

void GradientSync::backward(const Tensor& loss, bool sync) {
  if (group_->size() == 1 || optimizers_.empty()) return pinion::backward(loss);
  if (zero_.stage == 0) return backward_plain(loss, sync);
  for (const Trained& o : optimizers_)
    PINION_CHECK(o.zero,
                 "backward: ZeRO expected the models of every prepared optimizer to be "
                 "prepared, too");
  pinion::backward(loss);
  const ProfileSpan span("reduce gradients");
  for (const Trained& o : optimizers_) o.zero->synchronize();
}

void GradientSync::backward_plain(const Tensor& loss, bool sync) {
  if (!reducer_) {
    std::vector<optim::Arena*> arenas;
    for (const Trained& o : optimizers_)
      for (optim::Arena* arena : o.optimizer->arenas()) arenas.push_back(arena);
    dist::ReducerOptions options = options_;
    // With several optimizers a loss is often of the models of one.
    if (optimizers_.size() > 1 && options.unused == dist::Unused::error)
      options.unused = dist::Unused::detect;
    reducer_ = std::make_unique<dist::Reducer>(arenas, group_, options);
  }
  if (sync) {
    pinion::backward(loss);
    const ProfileSpan span("reduce gradients");
    reducer_->finish();
  } else {
    const auto local = reducer_->no_sync();
    pinion::backward(loss);
  }
}

// --- ZeRO ---

void GradientSync::shard() {
  if (zero_.stage == 0 || group_->size() == 1) return;
  for (Trained& o : optimizers_)
    if (!o.zero) shard(o);
}

void GradientSync::shard(Trained& trained) {
  std::vector<Tensor> own;
  for (const nn::NamedTensor& p : trained.optimizer->parameters()) own.push_back(p.tensor);
  Together together;
  for (const Model& model : models_)
    if (share_any(model.module->parameters(), own)) together.models.push_back(model.module);
  const std::vector<Tensor> there = together.parameters();
  if (!std::all_of(own.begin(), own.end(), [&](const Tensor& t) { return has(there, t); })) return;
  dist::ZeroOptions options = zero_;
  if (zero_.units.empty()) options.units = together.models;
  std::erase_if(options.units, [&](nn::Module* u) { return !share_any(u->parameters(), own); });
  trained.units = options.units;
  trained.zero = std::make_unique<dist::Zero>(together, *trained.optimizer, *group_, options);
  trained.zero->set_sync(false);
}

bool GradientSync::gathers(const nn::Module& module) const {
  return zero_.stage == 3 &&
         std::any_of(optimizers_.begin(), optimizers_.end(), [&](const auto& o) {
           return o.zero && std::count(o.units.begin(), o.units.end(), &module) > 0;
         });
}

Tensor GradientSync::run(nn::Module& module, const std::function<Tensor()>& f, size_t from) {
  for (; from < optimizers_.size(); ++from) {
    const Trained& o = optimizers_[from];
    if (!o.zero || std::count(o.units.begin(), o.units.end(), &module) == 0) continue;
    return o.zero->run(module, [&] { return run(module, f, from + 1); });
  }
  return f();
}

GradientSync::Whole GradientSync::whole() {
  Whole out;
  for (const Trained& o : optimizers_)
    if (o.zero) out.push_back(std::make_unique<dist::Zero::Whole>(*o.zero));
  return out;
}

dist::Zero* GradientSync::zero_of(const optim::Optimizer& optimizer) const {
  for (const Trained& o : optimizers_)
    if (o.optimizer == &optimizer) return o.zero.get();
  return nullptr;
}

}  // namespace pinion::accel
