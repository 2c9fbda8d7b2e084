// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pinion::optim {
namespace {

void check_positive(const char* op, const char* name, int64_t value) {
  PINION_CHECK(value > 0, op, ": expected ", name, " > 0, got ", value);
}

void check_rate(const char* op, const char* name, double value) {
  PINION_CHECK(std::isfinite(value) && value >= 0, op, ": expected a finite ", name, " >= 0, got ",
               value);
}

// Half a cosine from `start` (at 0) to `end` (at 1).
double cosine(double start, double end, double at) {
  return end + (start - end) / 2 * (1 + std::cos(std::numbers::pi * at));
}

double anneal(Anneal kind, double start, double end, double at) {
  return kind == Anneal::cosine ? cosine(start, end, at) : (end - start) * at + start;
}

double ratio(int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }

}  // namespace

Schedule constant_lr() {
  return [](double base_lr, int64_t) { return base_lr; };
}

Schedule lambda_lr(std::function<double(int64_t)> factor) {
  PINION_CHECK(factor, "lambda_lr: expected a function, got none");
  return [factor = std::move(factor)](double base_lr, int64_t t) { return base_lr * factor(t); };
}

Schedule step_lr(int64_t step_size, double gamma) {
  check_positive("step_lr", "step_size", step_size);
  check_rate("step_lr", "gamma", gamma);
  return [=](double base_lr, int64_t t) {
    const int64_t steps = t / step_size;
    return base_lr * std::pow(gamma, static_cast<double>(steps));
  };
}

Schedule multi_step_lr(std::vector<int64_t> milestones, double gamma) {
  PINION_CHECK(std::is_sorted(milestones.begin(), milestones.end()),
               "multi_step_lr: expected increasing milestones");
  check_rate("multi_step_lr", "gamma", gamma);
  return [milestones = std::move(milestones), gamma](double base_lr, int64_t t) {
    const auto passed = std::upper_bound(milestones.begin(), milestones.end(), t);
    return base_lr * std::pow(gamma, static_cast<double>(passed - milestones.begin()));
  };
}

Schedule cosine_annealing(int64_t t_max, double eta_min) {
  check_positive("cosine_annealing", "t_max", t_max);
  check_rate("cosine_annealing", "eta_min", eta_min);
  return [=](double base_lr, int64_t t) { return cosine(base_lr, eta_min, ratio(t, t_max)); };
}

Schedule linear_warmup(int64_t warmup, int64_t total) {
  PINION_CHECK(warmup >= 0, "linear_warmup: expected warmup >= 0, got ", warmup);
  PINION_CHECK(total == 0 || total >= warmup, "linear_warmup: expected total 0 or >= warmup ",
               warmup, ", got ", total);
  return [=](double base_lr, int64_t t) {
    if (t < warmup) return base_lr * ratio(t, warmup);
    if (total == 0) return base_lr;
    return t < total ? base_lr * ratio(total - t, total - warmup) : 0.0;
  };
}

Schedule warmup_cosine(int64_t warmup, int64_t total, double eta_min) {
  PINION_CHECK(warmup >= 0, "warmup_cosine: expected warmup >= 0, got ", warmup);
  PINION_CHECK(total > warmup, "warmup_cosine: expected total > warmup ", warmup, ", got ", total);
  check_rate("warmup_cosine", "eta_min", eta_min);
  return [=](double base_lr, int64_t t) {
    if (t < warmup) return base_lr * ratio(t, warmup);
    return cosine(base_lr, eta_min, ratio(std::min(t, total) - warmup, total - warmup));
  };
}

Schedule one_cycle(const OneCycleOptions& o) {
  check_positive("one_cycle", "total", o.total);
  PINION_CHECK(o.pct_start >= 0 && o.pct_start <= 1,
               "one_cycle: expected pct_start in [0, 1], got ", o.pct_start);
  PINION_CHECK(std::isfinite(o.div_factor) && o.div_factor > 0,
               "one_cycle: expected a finite div_factor > 0, got ", o.div_factor);
  PINION_CHECK(std::isfinite(o.final_div_factor) && o.final_div_factor > 0,
               "one_cycle: expected a finite final_div_factor > 0, got ", o.final_div_factor);
  return [o](double peak, int64_t t) {
    const double low = peak / o.div_factor, lowest = low / o.final_div_factor;
    const double last = static_cast<double>(o.total) - 1;
    const double up = o.pct_start * static_cast<double>(o.total) - 1;  // the peak's update
    const double at = std::min(static_cast<double>(t), last);
    // A phase of no length, or one that would start after the end, leaves its final value.
    const auto phase = [&](double start, double end, double from, double to) {
      return end > start ? anneal(o.anneal, from, to, (at - start) / (end - start)) : to;
    };
    if (at <= up) return phase(0, up, low, peak);
    if (!o.three_phase) return phase(up, last, peak, lowest);
    const double down = 2 * o.pct_start * static_cast<double>(o.total) - 2;
    if (at <= down) return phase(up, down, peak, low);
    return phase(down, last, low, lowest);
  };
}

Scheduler::Scheduler(Optimizer& optimizer, Schedule schedule)
    : Scheduler(optimizer, std::vector<Schedule>{std::move(schedule)}) {}

Scheduler::Scheduler(Optimizer& optimizer, std::vector<Schedule> schedules)
    : optimizer_(optimizer), schedules_(std::move(schedules)) {
  const size_t groups = optimizer.group_count();
  PINION_CHECK(schedules_.size() == 1 || schedules_.size() == groups,
               "Scheduler: expected one schedule, or one for each of ", groups, " groups, got ",
               schedules_.size());
  for (const Schedule& schedule : schedules_)
    PINION_CHECK(schedule, "Scheduler: expected a schedule, got none");
  apply();
}

void Scheduler::set_updates(int64_t updates) {
  PINION_CHECK(updates >= 0, "Scheduler: expected updates >= 0, got ", updates);
  updates_ = updates;
  apply();
}

void Scheduler::apply() {
  for (size_t g = 0; g < optimizer_.group_count(); ++g) {
    const Schedule& schedule = schedules_[schedules_.size() == 1 ? 0 : g];
    optimizer_.set_lr(g, schedule(optimizer_.base_lr(g), updates_));
  }
}

}  // namespace pinion::optim
