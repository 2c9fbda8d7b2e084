// SPDX-License-Identifier: Apache-2.0
// What changes from one optimizer step to the next, where a step that is recorded once and replayed
// finds it: in the device's memory. And the decisions of a step on the device, once for every
// device: clipping by norm, skipping after an infinity, dynamic loss scaling.
#pragma once

#include "pinion/kernels/arguments.h"
#include "pinion/kernels/lanes.h"

namespace pinion::kernels {

// One arena's numbers, as f64 [5]; `steps` and `skip` are whole numbers.
struct StepControl {
  double lr;
  double grad_scale;  // multiplies the gradients: 1 / loss scale, and clipping
  double steps;       // updates so far; the next one is step steps + 1
  double skip;        // not 0: the next step changes nothing and is not counted
  double norm;        // of all gradients together, before clipping; NaN when it was not asked for
};
inline constexpr int64_t kControlNumbers = 5;
static_assert(sizeof(StepControl) == kControlNumbers * sizeof(double));

// clip_grad_norm_ of torch.nn.utils over torch.amp.GradScaler.unscale_, for all arenas of one
// optimizer: stats are the arenas' sums of squares and counts of non-finite elements [arenas, 2];
// loss_scale may be null, max_norm infinite.
PINION_INLINE void decide(const double* stats, int64_t arenas, const float* loss_scale,
                          double max_norm, StepControl* control) {
  constexpr double kNormEpsilon = 1e-6;  // of clip_grad_norm_
  double squares = 0, nonfinite = 0;
  for (int64_t a = 0; a < arenas; ++a) squares += stats[2 * a], nonfinite += stats[2 * a + 1];
  const double inverse =
      loss_scale ? static_cast<double>(static_cast<float>(1 / static_cast<double>(*loss_scale)))
                 : 1.0;
  const double norm = math::sqrt(squares) * inverse;
  const double clip = max_norm / (norm + kNormEpsilon);
  for (int64_t a = 0; a < arenas; ++a) {
    control[a].grad_scale = inverse * (clip < 1 ? clip : 1.0);
    control[a].skip = nonfinite > 0 ? 1 : 0;
    control[a].norm = norm;
  }
}

// The state of torch.amp.GradScaler as f32 [3], and its update().
struct LossScale {
  float scale, growth_tracker, skips;  // skips: in a row
};
PINION_INLINE void update(bool skipped, const LossScaleRule& rule, LossScale& s) {
  if (skipped) {
    const auto smaller = static_cast<float>(s.scale * rule.backoff_factor);
    const auto least = static_cast<float>(rule.min_scale);
    s = {smaller > least ? smaller : least, 0, s.skips + 1};
    return;
  }
  s.skips = 0;
  s.growth_tracker += 1;
  if (s.growth_tracker < static_cast<float>(rule.growth_interval)) return;
  s.growth_tracker = 0;
  const auto grown = static_cast<float>(s.scale * rule.growth_factor);
  if (grown - grown == 0) s.scale = grown;  // finite
}

}  // namespace pinion::kernels
