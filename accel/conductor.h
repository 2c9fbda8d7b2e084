// SPDX-License-Identifier: Apache-2.0
// Conductor: the order of things in a training step. Which micro-batch ends a window, when
// gradients meet, when they are unscaled and clipped, and which calls of the user's loop do nothing
// because it is not their turn. Accelerator and the handles of prepare() are its faces.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "pinion/accel/checkpoint/state.h"
#include "pinion/accel/data/data_loader.h"
#include "pinion/accel/gradient_sync.h"
#include "pinion/accel/run_settings.h"
#include "pinion/accel/window.h"
#include "pinion/optim/schedule.h"

namespace pinion::accel {

class Conductor {
 public:
  // What is known of a prepared optimizer in the window under way.
  struct Optimizer {
    optim::Optimizer* optimizer;
    bool skipped = false;    // its last step met an infinity
    bool stepped = false;    // since zero_grad()
    bool corrected = false;  // Window::correction() is in its gradients
    bool unscaled = false, clipped = false;
  };

  Conductor(dist::ProcessGroup& group, const AcceleratorOptions& options,
            const RunSettings& settings, Device device);

  // --- what was prepared; a second call with the same object changes nothing ---
  void add(nn::Module& module);
  Optimizer& add(optim::Optimizer& optimizer);
  void add(optim::Scheduler& scheduler);
  void add(BatchFeed& feed);
  void shard_optimizers() { sync_.shard(); }  // after the last one, with ZeRO
  void forget();                              // all of it

  // --- loops over prepared loaders; the innermost counts ---
  void enter(BatchFeed& feed) { active_.push_back(&feed); }
  void leave(BatchFeed& feed);
  BatchFeed* active() const { return active_.empty() ? nullptr : active_.back(); }
  bool end_of_dataloader() const;
  void set_even_batches(bool even);
  bool even_batches() const { return even_batches_; }

  // --- the step ---
  void before_forward(nn::Module& module);
  bool gathers(const nn::Module& module) const { return sync_.gathers(module); }
  Tensor run(nn::Module& module, const std::function<Tensor()>& f) { return sync_.run(module, f); }
  GradientSync::Whole whole() { return sync_.whole(); }
  dist::Zero* zero_of(const optim::Optimizer& o) const { return sync_.zero_of(o); }
  void begin_micro_batch();  // accumulate(): what follows, until end_micro_batch(), is weighed
  void end_micro_batch() { guarded_ = false; }
  bool in_round() { return shards_ && shards_->in_round(); }  // of virtual shards
  void backward(const Tensor& loss, std::optional<double> weight);
  void step(Optimizer& o);
  void zero_grad(Optimizer& o);
  void step(optim::Scheduler& scheduler);
  void unscale(Optimizer& o);
  double clip_norm(const std::vector<Optimizer*>& all, double max_norm);
  void clip_value(const std::vector<Optimizer*>& all, double limit);
  bool any_skipped() const;

  dist::ProcessGroup& group() const { return group_; }
  Device device() const { return device_; }
  nn::Precision precision() const { return precision_; }
  optim::GradScaler& scaler();  // with its state of after the last step

  std::vector<std::unique_ptr<Optimizer>>& optimizers() { return optimizers_; }
  const std::vector<nn::Module*>& models() const { return models_; }
  const std::vector<optim::Scheduler*>& schedulers() const { return schedulers_; }
  const std::vector<BatchFeed*>& feeds() const { return feeds_; }
  int64_t updates() const { return updates_; }  // steps of the first optimizer

  // For checkpoints: what is the same on all ranks, and what this rank has in the window under way.
  State progress() const;
  void set_progress(const State& state);  // loaded before the window's
  State window_state() const;
  void set_window_state(const State& state);

  bool sync_gradients = true;  // the micro-batch under way ends its window
  bool no_sync = false;        // backward keeps its gradients to this rank
  int64_t accumulation_steps;
  int64_t micro_step = 0;  // since the last window that was full, or the end of a loader

 private:
  Shard shard() const;
  Window::Weight weight_of_batch() const;
  double factor_in_window(std::optional<double> given);
  double factor_alone(std::optional<double> given);
  double over_ranks(double x);
  double unit_of(double weight);
  void backward_in_shard(const Tensor& loss, std::optional<double> weight);
  void correct(Optimizer& o);
  void settle_scaler();

  dist::ProcessGroup& group_;
  Device device_;
  nn::Precision precision_;
  bool split_batches_, even_batches_, sync_with_dataloader_, step_with_optimizer_;
  SchedulerCompat compat_;
  double gradient_clipping_;
  GradientSync sync_;
  VirtualShards* shards_;  // of sync_; null unless deterministic
  optim::GradScaler scaler_;
  bool scaler_due_ = false;  // its iteration has ended
  Window window_;
  bool guarded_ = false;      // inside accumulate()
  bool window_done_ = false;  // an optimizer has stepped on it, or given its gradients up
  int64_t updates_ = 0;
  double given_unit_ = 0;  // the unit of weights that backward() is given
  bool weights_given_ = false;
  std::vector<nn::Module*> models_;
  std::vector<std::unique_ptr<Optimizer>> optimizers_;
  std::vector<optim::Scheduler*> schedulers_;
  std::vector<BatchFeed*> feeds_, active_;
};

}  // namespace pinion::accel
