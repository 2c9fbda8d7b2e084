// SPDX-License-Identifier: Apache-2.0
// Optimizer steps that a recording can hold: their numbers stand in the device's memory.
#include <cmath>
#include <limits>

#include "pinion/kernels/kernels.h"
#include "pinion/kernels/step_control.h"
#include "pinion/optim/optimizer.h"
#include "pinion/runtime/graph.h"

namespace pinion::optim {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

View row(Tensor& t, int64_t i) {
  View all = t.mut();
  const int64_t n = all.cols();
  return {all.as<double>() + i * n, {n}, DType::f64};
}

}  // namespace

void Optimizer::make_capturable() {
  PINION_CHECK(!recording(), name_, ": make_capturable() is no part of a recorded step");
  PINION_CHECK(!is_sharded(), name_, ": a sharded optimizer cannot be capturable");
  PINION_CHECK(pending_scale_ == 1, name_,
               ": make_capturable() expects no gradients that were unscaled or clipped");
  const std::vector<Arena*> all = arenas();
  const Device device = all[0]->device();
  std::vector<double> numbers;
  for (const Group& group : groups_)
    for (const Arena& arena : group.arenas) {
      PINION_CHECK(arena.device() == device, name_,
                   ": a capturable optimizer expects parameters on one device, got ", device.name(),
                   " and ", arena.device().name());
      const int64_t steps = arena.items()[0].steps;
      for (const Arena::Item& item : arena.items())
        PINION_CHECK(
            item.steps == steps, name_,
            ": a capturable optimizer expects equally many updates of all parameters, got ", steps,
            " and ", item.steps, " updates of ", item.name);
      const double fresh[] = {group.lr, 1, static_cast<double>(steps), 0,
                              std::numeric_limits<double>::quiet_NaN()};
      numbers.insert(numbers.end(), std::begin(fresh), std::end(fresh));
    }
  const MemoryTagScope tag(MemoryTag::optimizer);
  const auto count = static_cast<int64_t>(all.size());
  const Tensor host = Tensor::of(numbers, {count, kernels::kControlNumbers});
  if (control_.defined())  // recordings know its place
    copy(device, control_.mut().data, {}, host.view().data, host.numel() * size_of(DType::f64));
  else
    control_ = host.to(device).clone();
  stats_ = Tensor({count, 2}, DType::f64, device);
  max_norm_ = kNoLimit;
  loss_scale_ = {};
}

void Optimizer::limit_norm(double max_norm) {
  PINION_CHECK(is_capturable(), name_, ": limit_norm() expects a capturable optimizer");
  PINION_CHECK(max_norm >= 0, name_, ": expected max_norm >= 0, got ", max_norm);
  max_norm_ = max_norm;
}

void Optimizer::divide_by(const Tensor& loss_scale) {
  PINION_CHECK(is_capturable(), name_, ": divide_by() expects a capturable optimizer");
  PINION_CHECK(loss_scale.defined() && loss_scale.numel() == 1 &&
                   loss_scale.dtype() == DType::f32 && loss_scale.device() == control_.device(),
               name_, ": expected a loss scale of one f32 on ", control_.device().name());
  loss_scale_ = loss_scale;
}

void Optimizer::capturable_step(double grad_scale) {
  PINION_CHECK(grad_scale == 1, name_,
               ": a capturable optimizer takes its factor from its device, got grad_scale ",
               grad_scale);
  const Device device = control_.device();
  int64_t at = 0;
  const auto for_arenas = [&](auto&& f) {
    at = 0;
    for (size_t g = 0; g < groups_.size(); ++g)
      for (Arena& arena : groups_[g].arenas) {
        const std::span<const Arena::Range> ranges = arena.ranges();
        PINION_CHECK(ranges.size() == 1 && ranges[0].end - ranges[0].begin == arena.size(), name_,
                     ": a capturable optimizer expects a gradient of every parameter");
        f(g, arena, ranges[0]);
        ++at;
      }
  };
  if (max_norm_ != kNoLimit || loss_scale_.defined()) {
    for_arenas([&](size_t, Arena& arena, const Arena::Range&) {
      on(device, [&](auto& ctx) {
        kernels::squares_and_nonfinite(ctx, arena.grads().view(), row(stats_, at));
      });
    });
    const ConstView scale = loss_scale_.defined() ? loss_scale_.view() : ConstView();
    on(device,
       [&](auto& ctx) { kernels::decide_step(ctx, stats_, scale, max_norm_, control_.mut()); });
  }
  for_arenas([&](size_t group, Arena& arena, const Arena::Range& range) {
    update_controlled(group, device, views_of(groups_[group], arena, range), row(control_, at));
  });
  max_norm_ = kNoLimit;
  loss_scale_ = {};
}

void Optimizer::write_lr(size_t group) {
  PINION_CHECK(!recording(), name_, ": expected set_lr() outside of a recorded step");
  int64_t at = 0;
  for (size_t g = 0; g < groups_.size(); ++g)
    for (size_t a = 0; a < groups_[g].arenas.size(); ++a, ++at) {
      if (g != group) continue;
      const View lr{row(control_, at).data, {1}, DType::f64};
      on(control_.device(), [&](auto& ctx) { kernels::fill(ctx, lr, groups_[g].lr); });
    }
}

std::vector<kernels::StepControl> Optimizer::control_numbers() const {
  PINION_CHECK(is_capturable(), name_, ": expected a capturable optimizer");
  std::vector<kernels::StepControl> rows(static_cast<size_t>(control_.size(0)));
  copy({}, rows.data(), control_.device(), control_.view().data,
       control_.numel() * size_of(DType::f64));
  return rows;
}
double Optimizer::grad_norm() const { return control_numbers()[0].norm; }
bool Optimizer::step_was_skipped() const { return control_numbers()[0].skip != 0; }
ConstView Optimizer::control() const {
  PINION_CHECK(is_capturable(), name_, ": expected a capturable optimizer");
  return {control_.view().data, {kernels::kControlNumbers}, DType::f64};
}

void Optimizer::take_steps_from_device() {
  const std::vector<kernels::StepControl> rows = control_numbers();
  size_t at = 0;
  for (Arena* arena : arenas()) {
    const auto steps = static_cast<int64_t>(rows[at++].steps);
    for (size_t i = 0; i < arena->items().size(); ++i) arena->set_steps(i, steps);
  }
}

}  // namespace pinion::optim
