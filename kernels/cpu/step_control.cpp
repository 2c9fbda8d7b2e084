// SPDX-License-Identifier: Apache-2.0
// Optimizer steps that take their numbers from memory, and the decisions behind these numbers.
#include "pinion/kernels/step_control.h"

#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

StepControl& numbers(const View& control) {
  return *reinterpret_cast<StepControl*>(control.as<double>());
}

}  // namespace

void sgd_step_controlled(const CpuContext& ctx, View w, ConstView dw, View momentum, SgdStep s,
                         View control) {
  StepControl& now = numbers(control);
  if (now.skip != 0) return;
  s.lr = now.lr, s.grad_scale = now.grad_scale, s.first = now.steps == 0;
  sgd_step(ctx, w, dw, momentum, s);
  now.steps += 1;
}

void adam_step_controlled(const CpuContext& ctx, View w, ConstView dw, View m, View v, View vmax,
                          AdamStep s, View control) {
  StepControl& now = numbers(control);
  if (now.skip != 0) return;
  s.lr = now.lr, s.grad_scale = now.grad_scale, s.step = static_cast<int64_t>(now.steps) + 1;
  adam_step(ctx, w, dw, m, v, vmax, s);
  now.steps += 1;
}

void decide_step(const CpuContext&, ConstView stats, ConstView loss_scale, double max_norm,
                 View control) {
  decide(stats.as<double>(), stats.shape[0], loss_scale ? loss_scale.as<float>() : nullptr,
         max_norm, &numbers(control));
}

void update_loss_scale(const CpuContext&, ConstView control, LossScaleRule rule, View state) {
  const auto& now = *reinterpret_cast<const StepControl*>(control.as<double>());
  update(now.skip != 0, rule, *reinterpret_cast<LossScale*>(state.as<float>()));
}

void count_equal(const CpuContext&, ConstView a, ConstView b, View count) {
  const int64_t *x = a.as<int64_t>(), *y = b.as<int64_t>();
  int64_t equal = 0;
  for (int64_t i = 0; i < a.numel(); ++i) equal += x[i] == y[i];
  *count.as<int64_t>() += equal;
}

}  // namespace pinion::kernels::PINION_RUNG
