// SPDX-License-Identifier: Apache-2.0
// Learning rate schedules: pure functions of the number of optimizer updates done, and the
// Scheduler that writes their values into an optimizer. The whole state of a schedule is that one
// number.
#pragma once

#include <functional>
#include <vector>

#include "pinion/optim/optimizer.h"

namespace pinion::optim {

// The learning rate after `updates` updates (so 0 is for the first) of a group whose own is
// base_lr.
using Schedule = std::function<double(double base_lr, int64_t updates)>;

Schedule constant_lr();
Schedule lambda_lr(std::function<double(int64_t updates)> factor);  // base_lr factor(updates)
// Times gamma after every step_size updates; or at each of the milestones (increasing).
Schedule step_lr(int64_t step_size, double gamma = 0.1);
Schedule multi_step_lr(std::vector<int64_t> milestones, double gamma = 0.1);
// Half a cosine from base_lr to eta_min over t_max updates, and back up over the next t_max.
Schedule cosine_annealing(int64_t t_max, double eta_min = 0);
// From 0 in equal steps to base_lr, reached after `warmup` updates. With total > 0 then in equal
// steps down to 0, reached after `total` updates in all, and 0 from there on.
Schedule linear_warmup(int64_t warmup, int64_t total = 0);
// The same climb, then half a cosine down to eta_min after `total` updates, and eta_min from there
// on.
Schedule warmup_cosine(int64_t warmup, int64_t total, double eta_min = 0);

// The one-cycle policy (Smith & Topin 2017) as torch.optim.lr_scheduler.OneCycleLR computes it.
// base_lr is the peak: the rate climbs from base_lr / div_factor to it over the first pct_start of
// `total` updates, then falls to base_lr / (div_factor final_div_factor), where it stays.
enum class Anneal : uint8_t { cosine, linear };
struct OneCycleOptions {
  int64_t total = 0;       // updates of the whole run, at least 1
  double pct_start = 0.3;  // in [0, 1]
  Anneal anneal = Anneal::cosine;
  double div_factor = 25;
  double final_div_factor = 1e4;
  bool three_phase = false;  // a second phase, as long as the first, back to base_lr / div_factor
};
Schedule one_cycle(const OneCycleOptions& options);

// Sets the learning rate of every group, at once for update 0 and then after each step().
// The optimizer must outlive it. Base rates are those of the groups' options (Optimizer::base_lr),
// so it does not matter whether the optimizer's state is loaded before or after.
class Scheduler {
 public:
  Scheduler(Optimizer& optimizer, Schedule schedule);
  Scheduler(Optimizer& optimizer, std::vector<Schedule> schedules);  // one per group

  void step() { set_updates(updates_ + 1); }  // call after an update that was not skipped
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates);  // resuming: the state is this number

 private:
  void apply();

  Optimizer& optimizer_;
  std::vector<Schedule> schedules_;  // one, or one per group
  int64_t updates_ = 0;
};

}  // namespace pinion::optim
