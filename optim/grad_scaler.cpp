// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/grad_scaler.h"

#include <algorithm>
#include <cmath>

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
  scale_ = static_cast<float>(o.init_scale);
}

Tensor GradScaler::scale(const Tensor& loss) const {
  PINION_CHECK(loss.defined(), "GradScaler: expected a loss to scale, got an undefined tensor");
  return options_.enabled ? loss * scale_ : loss;
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
  const bool found_inf = optimizer.grad_stats().nonfinite > 0;
  optimizer.multiply_gradients(static_cast<float>(1 / scale_));
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
  const bool found_inf =
      std::any_of(seen_.begin(), seen_.end(), [](const Seen& s) { return s.found_inf; });
  seen_.clear();
  if (found_inf) {
    scale_ = std::max(static_cast<float>(scale_ * options_.backoff_factor),
                      static_cast<float>(options_.min_scale));
    growth_tracker_ = 0;
    PINION_REQUIRE(non_finite, ++skips_ < options_.max_skips,
                   "GradScaler: expected finite gradients,"
                   " got ",
                   skips_, " iterations in a row with infinities or NaN, down to scale ", scale_);
    return;
  }
  skips_ = 0;
  if (++growth_tracker_ < options_.growth_interval) return;
  growth_tracker_ = 0;
  const float grown = static_cast<float>(scale_ * options_.growth_factor);
  if (std::isfinite(grown)) scale_ = grown;
}

void GradScaler::update(double new_scale) {
  if (!options_.enabled) return;
  const auto next = static_cast<float>(new_scale);
  PINION_CHECK(std::isfinite(next) && next > 0, "update: expected a finite new_scale > 0, got ",
               new_scale);
  seen_.clear();
  scale_ = next;
}

std::vector<nn::NamedTensor> GradScaler::state() const {
  return {{"scale", Tensor::of<double>({scale_}, {})},
          {"growth_tracker", Tensor::of<int64_t>({growth_tracker_}, {})},
          {"skips", Tensor::of<int64_t>({skips_}, {})}};
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
  scale_ = scale;
  growth_tracker_ = tracker;
  skips_ = skips;
}

}  // namespace pinion::optim
