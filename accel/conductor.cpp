// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/conductor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pinion/accel/gather.h"
#include "pinion/accel/track/profile.h"
#include "pinion/nn/noise.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/clip.h"

namespace pinion::accel {

namespace {

optim::GradScalerOptions scaler_options(const AcceleratorOptions& options, nn::Precision p) {
  optim::GradScalerOptions out = options.scaler;
  out.enabled = p == nn::Precision::fp16;
  return out;
}

dist::ZeroOptions zero_options(const AcceleratorOptions& options, const RunSettings& settings) {
  dist::ZeroOptions out = options.zero;
  out.stage = settings.zero_stage;
  out.reduce = dist::ReduceOp::mean;  // as the window expects
  return out;
}

template <class T>
bool contains(const std::vector<T*>& list, const T* item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

}  // namespace

Conductor::Conductor(dist::ProcessGroup& group, const AcceleratorOptions& options,
                     const RunSettings& settings, Device device)
    : accumulation_steps(settings.gradient_accumulation_steps),
      group_(group),
      device_(device),
      precision_(settings.mixed_precision),
      split_batches_(options.split_batches || settings.deterministic),
      even_batches_(options.even_batches),
      sync_with_dataloader_(options.sync_with_dataloader),
      step_with_optimizer_(options.step_scheduler_with_optimizer),
      compat_(options.scheduler_compat),
      gradient_clipping_(settings.gradient_clipping),
      sync_(group, options.ddp, options.broadcast_buffers, zero_options(options, settings),
            settings.deterministic ? settings.virtual_shards : 0),
      shards_(sync_.virtual_shards()),
      scaler_(scaler_options(options, settings.mixed_precision)),
      window_(shards_ ? 1 : group.size()) {}  // shards' gradients are summed, ranks' averaged

// --- what was prepared ---

void Conductor::add(nn::Module& module) {
  if (contains<nn::Module>(models_, &module)) return;
  module.to(device_);
  sync_.add(module);
  models_.push_back(&module);
}

Conductor::Optimizer& Conductor::add(optim::Optimizer& optimizer) {
  for (const auto& o : optimizers_)
    if (o->optimizer == &optimizer) return *o;
  sync_.add(optimizer);
  optimizers_.push_back(std::make_unique<Optimizer>());
  optimizers_.back()->optimizer = &optimizer;
  return *optimizers_.back();
}

void Conductor::add(optim::Scheduler& scheduler) {
  if (!contains<optim::Scheduler>(schedulers_, &scheduler)) schedulers_.push_back(&scheduler);
}

Shard Conductor::shard() const {
  return {group_.rank(), group_.size(), split_batches_, even_batches_,
          shards_ ? shards_->turns() : 1};
}

void Conductor::add(BatchFeed& feed) {
  if (contains<BatchFeed>(feeds_, &feed)) return;
  feed.shard(shard());
  const LoaderState at = feed.state();
  const auto all = gather_numbers(
      group_, device_,
      {at.samples, feed.plan().batch(), static_cast<int64_t>(at.seed), at.epoch, at.consumed});
  for (size_t r = 1; r < all.size(); ++r)
    PINION_REQUIRE(
        desync, all[r] == all[0],
        "prepare: expected the same data, batch size, seed and position on every rank, got ",
        all[0][0], " samples in batches of ", all[0][1], ", seed ", all[0][2], ", on rank 0 and ",
        all[r][0], " in ", all[r][1], ", seed ", all[r][2], ", on rank ", r);
  feeds_.push_back(&feed);
}

void Conductor::forget() {
  models_.clear(), optimizers_.clear(), schedulers_.clear(), feeds_.clear(), active_.clear();
  sync_.forget();
  window_.close();
  micro_step = 0;
  sync_gradients = true;
}

// --- loops ---

void Conductor::leave(BatchFeed& feed) {
  const auto at = std::find(active_.rbegin(), active_.rend(), &feed);
  if (at != active_.rend()) active_.erase(std::next(at).base());
}

bool Conductor::end_of_dataloader() const {
  return active() && active()->plan().is_last(active()->round_begin()) &&
         active()->turn() + 1 == active()->plan().shard().turns;
}

void Conductor::set_even_batches(bool even) {
  even_batches_ = even;
  for (BatchFeed* feed : feeds_) feed->shard(shard());
}

// --- the step ---

void Conductor::before_forward(nn::Module& module) {
  if (!shards_) set_noise_part(group_.rank());
  sync_.before_forward(module, sync_gradients);
}

void Conductor::begin_micro_batch() {
  guarded_ = true;
  if (window_done_) window_.close(), window_done_ = false;
  window_.next_micro_batch();
  if (shards_) {
    PINION_CHECK(active(),
                 "accumulate: with deterministic, expected a loop over a prepared loader");
    shards_->begin(active()->turn());
  }
  if (shards_ && active()->turn() + 1 < shards_->turns()) {
    sync_gradients = false;
  } else if (sync_with_dataloader_ && end_of_dataloader()) {
    micro_step = 0;
    sync_gradients = true;
  } else {
    sync_gradients = ++micro_step % accumulation_steps == 0;
  }
}

double Conductor::over_ranks(double x) {
  if (group_.size() == 1) return x;
  return reduce(group_, Tensor::of<double>({x}, {1}).to(device_), dist::ReduceOp::sum).item();
}

// A power of two near the mean of what the ranks gave first: dividing by it rounds nothing.
double Conductor::unit_of(double weight) {
  if (given_unit_ > 0) return given_unit_;
  // Rank 0 always has the first shard, whatever the number of ranks.
  const double mean =
      shards_ ? over_ranks(group_.rank() == 0 ? weight : 0) : over_ranks(weight) / group_.size();
  if (mean > 0) given_unit_ = std::exp2(std::round(std::log2(mean)));
  return mean > 0 ? given_unit_ : 1;
}

Window::Weight Conductor::weight_of_batch() const {
  const auto ranks = static_cast<double>(group_.size());
  if (!active()) return {1, ranks, 1};
  const ShardPlan& plan = active()->plan();
  const int64_t begin = active()->round_begin();
  if (shards_)  // what they weigh together, the end of the round says
    return {static_cast<double>(plan.weight(begin, group_.rank(), active()->turn())), 0,
            static_cast<double>(plan.round())};
  return {static_cast<double>(plan.weight(begin, group_.rank())),
          static_cast<double>(plan.total_weight(begin)), static_cast<double>(plan.batch())};
}

// Inside accumulate(): the window normalises when it ends.
double Conductor::factor_in_window(std::optional<double> given) {
  if (!window_.is_open()) {
    settle_scaler();
    window_.open(accumulation_steps);
    weights_given_ = false;
    for (const auto& o : optimizers_) o->corrected = o->unscaled = o->clipped = false;
  }
  if (!given) return window_.weigh(weight_of_batch());
  weights_given_ = true;
  return window_.weigh({*given, 0, unit_of(*given)});
}

// Outside: every backward is a batch of its own over the ranks, and gradients add up, as PyTorch's.
double Conductor::factor_alone(std::optional<double> given) {
  settle_scaler();
  Window::Weight w = weight_of_batch();
  if (given) w.mine = *given, w.everyone = over_ranks(*given);
  if (w.everyone == 0) return 0;
  return w.mine * group_.size() / (w.everyone * static_cast<double>(accumulation_steps));
}

void Conductor::backward(const Tensor& loss, std::optional<double> weight) {
  PINION_CHECK(loss.defined(), "backward: expected a loss, got an undefined tensor");
  PINION_CHECK(!weight || (*weight >= 0 && std::isfinite(*weight)),
               "backward: expected a finite weight >= 0, got ", *weight);
  const ProfileSpan span("backward");
  if (shards_) return backward_in_shard(loss, weight);
  const double factor = guarded_ ? factor_in_window(weight) : factor_alone(weight);
  sync_.backward(scaler_.scale(factor == 1 ? loss : loss * factor), sync_gradients && !no_sync);
  if (guarded_ && sync_gradients && weights_given_)
    window_.set_everyone(over_ranks(window_.mine()));
}

void Conductor::backward_in_shard(const Tensor& loss, std::optional<double> weight) {
  PINION_CHECK(guarded_ && !no_sync,
               "backward: with deterministic, expected accumulate() around it, and no no_sync()");
  const double factor = factor_in_window(weight);
  const double mine = weight ? *weight : weight_of_batch().mine;
  const auto total = shards_->backward(scaler_.scale(factor == 1 ? loss : loss * factor), mine);
  if (total) window_.add_everyone(*total);
}

void Conductor::correct(Optimizer& o) {
  if (o.corrected || !window_.is_open()) return;
  o.corrected = true;
  if (const double factor = window_.correction(); factor != 1)
    o.optimizer->multiply_gradients(factor);
}

void Conductor::unscale(Optimizer& o) {
  if (!sync_gradients) return;
  correct(o);
  if (o.unscaled || !scaler_.enabled()) return;
  o.unscaled = true;
  scaler_.unscale_(*o.optimizer);
}

double Conductor::clip_norm(const std::vector<Optimizer*>& all, double max_norm) {
  if (!sync_gradients) return 0;
  const ProfileSpan span("clip gradients");
  if (all.size() == 1) {
    unscale(*all[0]);
    all[0]->clipped = true;
    return optim::clip_grad_norm_(*all[0]->optimizer, max_norm);
  }
  double squares = 0, nonfinite = 0;
  for (Optimizer* o : all) {
    unscale(*o);
    o->clipped = true;
    const optim::GradStats stats = o->optimizer->grad_stats();
    squares += stats.squares * o->optimizer->pending_scale() * o->optimizer->pending_scale();
    nonfinite += stats.nonfinite;
  }
  if (nonfinite > 0) return std::numeric_limits<double>::quiet_NaN();
  const double norm = std::sqrt(squares);
  constexpr double kEpsilon = 1e-6;  // as in optim/clip.h
  if (const double factor = max_norm / (norm + kEpsilon); factor < 1)
    for (Optimizer* o : all) o->optimizer->multiply_gradients(factor);
  return norm;
}

void Conductor::clip_value(const std::vector<Optimizer*>& all, double limit) {
  if (!sync_gradients) return;
  const ProfileSpan span("clip gradients");
  for (Optimizer* o : all) {
    unscale(*o);
    o->clipped = true;
    optim::clip_grad_value_(*o->optimizer, limit);
  }
}

void Conductor::step(Optimizer& o) {
  if (!sync_gradients) return;
  const ProfileSpan span("optimizer step");
  unscale(o);
  if (gradient_clipping_ > 0 && !o.clipped) clip_norm({&o}, gradient_clipping_);
  o.skipped = !scaler_.step(*o.optimizer);
  o.unscaled = o.clipped = false;
  o.stepped = true;
  if (&o == optimizers_.front().get()) ++updates_;
  scaler_due_ = scaler_.enabled();
  window_done_ = window_.is_open();
}

void Conductor::zero_grad(Optimizer& o) {
  // A loop may begin or end with zero_grad(). Gradients that were stepped on go; of others, those
  // of a window that is complete, as a loop wants that looks at them and gives them up.
  const bool incomplete =
      !sync_gradients || (window_.is_open() && !window_done_ && !window_.backward_done());
  if (!o.stepped && incomplete) return;
  o.stepped = false;
  o.optimizer->zero_grad();
  if (o.unscaled) scaler_due_ = true;  // these gradients will not be stepped on
  o.unscaled = o.clipped = false;
  window_done_ = window_.is_open();
}

void Conductor::step(optim::Scheduler& scheduler) {
  if (!step_with_optimizer_) return scheduler.step();
  if (!sync_gradients || any_skipped()) return;
  const int counts = compat_ == SchedulerCompat::accelerate && !split_batches_ ? group_.size() : 1;
  for (int i = 0; i < counts; ++i) scheduler.step();
}

bool Conductor::any_skipped() const {
  return std::any_of(optimizers_.begin(), optimizers_.end(),
                     [](const auto& o) { return o->skipped; });
}

State Conductor::progress() const {
  State out;
  out.put("updates", updates_);
  out.put("micro_step", micro_step);
  out.put("given_unit", given_unit_);
  for (size_t i = 0; i < optimizers_.size(); ++i)  // whether the gradients that are kept are spent
    out.put(cat({"stepped_", i}), optimizers_[i]->stepped);
  return out;
}

void Conductor::set_progress(const State& state) {
  updates_ = state.integer("updates");
  micro_step = state.integer("micro_step");
  given_unit_ = state.real("given_unit");
  for (size_t i = 0; i < optimizers_.size(); ++i)
    optimizers_[i]->stepped = state.boolean(cat({"stepped_", i}));
  window_.close();
  window_done_ = scaler_due_ = false;
  sync_gradients = true;
  if (shards_) shards_->leave_round();
}

State Conductor::window_state() const {
  State out;
  out.open = true;
  const Window::State& w = window_.state();
  if (w.steps == 0 || window_done_) return out;
  out.put("steps", w.steps);
  out.put("unit", w.unit);
  out.put("mine", w.mine);
  out.put("everyone", w.everyone);
  out.put("weights_given", weights_given_);
  return out;
}

void Conductor::set_window_state(const State& state) {
  if (state.values.empty()) return;
  window_.restore(
      {state.integer("steps"), state.real("unit"), state.real("mine"), state.real("everyone")});
  weights_given_ = state.boolean("weights_given");
}

void Conductor::settle_scaler() {
  if (!scaler_due_) return;
  scaler_due_ = false;
  scaler_.update();
}

optim::GradScaler& Conductor::scaler() {
  settle_scaler();
  return scaler_;
}

}  // namespace pinion::accel
