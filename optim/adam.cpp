// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/adam.h"

#include <cmath>

#include "pinion/kernels/kernels.h"

namespace pinion::optim {
namespace {

std::vector<Adam::Group> as_adam(const std::vector<AdamW::Group>& groups) {
  std::vector<Adam::Group> out;
  for (const AdamW::Group& g : groups) {
    const AdamWOptions& o = g.options;
    out.push_back({g.name, g.params, {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.amsgrad}});
  }
  return out;
}

}  // namespace

Adam::Adam(const std::vector<nn::NamedTensor>& params, const AdamOptions& options)
    : Adam(std::vector<Group>{{"default", params, options}}) {}

Adam::Adam(const std::vector<Group>& groups) : Adam("Adam", false, groups) {}

Adam::Adam(const char* name, bool decoupled, const std::vector<Group>& groups)
    : Optimizer(name), decoupled_(decoupled) {
  PINION_CHECK(!groups.empty(), name, ": expected at least one group of parameters");
  for (const Group& g : groups) {
    const AdamOptions& o = g.options;
    PINION_CHECK(o.beta1 >= 0 && o.beta1 < 1, name, ": expected beta1 in [0, 1), got ", o.beta1);
    PINION_CHECK(o.beta2 >= 0 && o.beta2 < 1, name, ": expected beta2 in [0, 1), got ", o.beta2);
    PINION_CHECK(std::isfinite(o.eps) && o.eps >= 0, name, ": expected a finite eps >= 0, got ",
                 o.eps);
    options_.push_back(o);
    if (o.amsgrad)
      add_group(g.name, g.params, o.lr, o.weight_decay,
                {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"});
    else
      add_group(g.name, g.params, o.lr, o.weight_decay, {"exp_avg", "exp_avg_sq"});
  }
}

kernels::AdamStep Adam::step_of(size_t group) const {
  const AdamOptions& o = options_[group];
  return {.lr = lr(group),
          .beta1 = o.beta1,
          .beta2 = o.beta2,
          .eps = o.eps,
          .weight_decay = weight_decay(group),
          .decoupled = decoupled_};
}

void Adam::update(size_t group, Device device, const Views& views, int64_t steps,
                  double grad_scale) {
  kernels::AdamStep s = step_of(group);
  s.step = steps + 1;
  s.grad_scale = grad_scale;
  s.low = views.low;
  on(device, [&](auto& ctx) {
    kernels::adam_step(ctx, views.w, views.dw, views.state[0], views.state[1], views.state[2], s);
  });
}

void Adam::update_controlled(size_t group, Device device, const Views& views, const View& control) {
  kernels::AdamStep s = step_of(group);
  s.low = views.low;
  on(device, [&](auto& ctx) {
    kernels::adam_step_controlled(ctx, views.w, views.dw, views.state[0], views.state[1],
                                  views.state[2], s, control);
  });
}

AdamW::AdamW(const std::vector<nn::NamedTensor>& params, const AdamWOptions& options)
    : AdamW(std::vector<Group>{{"default", params, options}}) {}

AdamW::AdamW(const std::vector<Group>& groups) : Adam("AdamW", true, as_adam(groups)) {}

}  // namespace pinion::optim
