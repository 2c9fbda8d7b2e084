// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/grad_scaler.h"

#include <algorithm>
#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/kernels/step_control.h"
#include "pinion/nn/ops.h"

namespace pinion::optim {

GradScaler::GradScaler(const GradScalerOptions& o) : options_(o) {
  const auto finite_float = [](double x) { return std::isfinite(static_cast<float>(x)); };
  PINION_CHECK(finite_float(o.min_scale) && static_cast<float>(o.min_scale) > 0,
               "GradScaler: expected a finite min_scale > 0, got ", o.min_scale);
  PINION_CHECK(finite_float(o.init_scale) && o.init_scale >= o.min_scale,
               "GradScaler: expected a finite init_scale >= min_scale ", o.min_scale, ", got ",
               o.init_scale);
  PINION_CHECK(finite_float(o.growth_factor) && o.growth_factor > 1,
               "GradScaler: expected a finite growth_factor > 1, got ", o.growth_factor);
  PINION_CHECK(o.backoff_factor > 0 && o.backoff_factor < 1,
               "GradScaler: expected backoff_factor in (0, 1), got ", o.backoff_factor);
  PINION_CHECK(o.growth_interval > 0, "GradScaler: expected growth_interval > 0, got ",
               o.growth_interval);
  PINION_CHECK(o.max_skips > 0, "GradScaler: expected max_skips > 0, got ", o.max_skips);
  state_.scale = static_cast<float>(o.init_scale);
}

void GradScaler::make_capturable(Device device) {
  if (!options_.enabled) return;
  PINION_CHECK(seen_.empty(), "make_capturable: expected no iteration under way");
  const State state = now();
  on_device_ = Tensor({3}, DType::f32, device);
  set(state);
}

GradScaler::State GradScaler::now() const {
  if (!on_device_.defined()) return state_;
  const std::vector<float> s = on_device_.to({}).values<float>();
  return {s[0], static_cast<int64_t>(s[1]), static_cast<int64_t>(s[2])};
}

double GradScaler::scale() const {
  const State state = now();
  if (on_device_.defined()) check_skips(state);
  return state.scale;
}

void GradScaler::check_skips(const State& state) const {
  PINION_REQUIRE(non_finite, state.skips < options_.max_skips,
                 "GradScaler: expected finite gradients, got ", state.skips,
                 " iterations in a row with infinities or NaN, down to scale ", state.scale);
}

void GradScaler::set(const State& state) {
  state_ = state;
  if (!on_device_.defined()) return;
  const float numbers[] = {static_cast<float>(state.scale),
                           static_cast<float>(state.growth_tracker),
                           static_cast<float>(state.skips)};
  copy(on_device_.device(), on_device_.mut().data, {}, numbers, sizeof numbers);
}

Tensor GradScaler::scale(const Tensor& loss) const {
  PINION_CHECK(loss.defined(), "GradScaler: expected a loss to scale, got an undefined tensor");
  if (!options_.enabled) return loss;
  if (!on_device_.defined()) return loss * state_.scale;
  PINION_CHECK(loss.rank() == 0, "GradScaler: a capturable scaler expects a loss of one element");
  return nn::cast(loss, DType::f32) * device_scale();
}

GradScaler::Seen* GradScaler::find(const Optimizer& optimizer) {
  const auto found = std::find_if(seen_.begin(), seen_.end(),
                                  [&](const Seen& s) { return s.optimizer == &optimizer; });
  return found == seen_.end() ? nullptr : &*found;
}

void GradScaler::unscale_(Optimizer& optimizer) {
  if (!options_.enabled) return;
  if (const Seen* seen = find(optimizer)) {
    PINION_CHECK(seen->stage != Stage::unscaled,
                 "unscale_: expected one call per optimizer between two calls of update()");
    PINION_CHECK(seen->stage != Stage::stepped,
                 "unscale_: expected a call before step(), not after");
  }
  if (on_device_.defined()) {
    optimizer.divide_by(device_scale());
    seen_.push_back({&optimizer, Stage::unscaled, false});
    return;
  }
  const bool found_inf = optimizer.grad_stats().nonfinite > 0;
  optimizer.multiply_gradients(static_cast<float>(1 / state_.scale));
  seen_.push_back({&optimizer, Stage::unscaled, found_inf});
}

bool GradScaler::step(Optimizer& optimizer) {
  if (!options_.enabled) return optimizer.step(), true;
  Seen* seen = find(optimizer);
  PINION_CHECK(!seen || seen->stage != Stage::stepped,
               "step: expected one call per optimizer between two calls of update()");
  if (!seen) unscale_(optimizer), seen = &seen_.back();
  if (!seen->found_inf) optimizer.step();
  seen->stage = Stage::stepped;
  return !seen->found_inf;
}

void GradScaler::update() {
  if (!options_.enabled) return;
  PINION_CHECK(!seen_.empty(),
               "update: expected unscale_() or step() in this iteration, got neither");
  if (on_device_.defined()) return update_on_device();
  const bool found_inf =
      std::any_of(seen_.begin(), seen_.end(), [](const Seen& s) { return s.found_inf; });
  seen_.clear();
  kernels::LossScale next{static_cast<float>(state_.scale),
                          static_cast<float>(state_.growth_tracker),
                          static_cast<float>(state_.skips)};
  kernels::update(found_inf, rule(), next);
  state_ = {next.scale, static_cast<int64_t>(next.growth_tracker),
            static_cast<int64_t>(next.skips)};
  check_skips(state_);
}

kernels::LossScaleRule GradScaler::rule() const {
  return {options_.growth_factor, options_.backoff_factor, options_.min_scale,
          options_.growth_interval};
}

void GradScaler::update_on_device() {
  const Optimizer& optimizer = *seen_.front().optimizer;
  PINION_CHECK(seen_.size() == 1, "update: a capturable scaler expects one optimizer, got ",
               seen_.size());
  seen_.clear();
  on(on_device_.device(), [&](auto& ctx) {
    kernels::update_loss_scale(ctx, optimizer.control(), rule(), on_device_.mut());
  });
}

void GradScaler::update(double new_scale) {
  if (!options_.enabled) return;
  const auto next = static_cast<float>(new_scale);
  PINION_CHECK(std::isfinite(next) && next > 0, "update: expected a finite new_scale > 0, got ",
               new_scale);
  seen_.clear();
  State state = now();
  state.scale = next;
  set(state);
}

std::vector<nn::NamedTensor> GradScaler::state() const {
  const State s = now();
  return {{"scale", Tensor::of<double>({s.scale}, {})},
          {"growth_tracker", Tensor::of<int64_t>({s.growth_tracker}, {})},
          {"skips", Tensor::of<int64_t>({s.skips}, {})}};
}

void GradScaler::load_state(const std::vector<nn::NamedTensor>& state) {
  const std::vector<nn::NamedTensor> next = this->state();
  nn::copy_state("GradScaler", next, state);
  const double scale = next[0].tensor.item();
  const int64_t tracker = next[1].tensor.view().as<int64_t>()[0];
  const int64_t skips = next[2].tensor.view().as<int64_t>()[0];
  PINION_REQUIRE(checkpoint, std::isfinite(scale) && scale > 0,
                 "GradScaler: expected a finite scale > 0, got ", scale);
  PINION_REQUIRE(checkpoint, tracker >= 0, "GradScaler: expected growth_tracker >= 0, got ",
                 tracker);
  PINION_REQUIRE(checkpoint, skips >= 0, "GradScaler: expected skips >= 0, got ", skips);
  set({scale, tracker, skips});
}

}  // namespace pinion::optim
