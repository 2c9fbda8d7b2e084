// SPDX-License-Identifier: Apache-2.0
#include "pinion/optim/sgd.h"

#include <cmath>

#include "pinion/kernels/kernels.h"

namespace pinion::optim {

Sgd::Sgd(const std::vector<nn::NamedTensor>& params, const SgdOptions& options)
    : Sgd(std::vector<Group>{{"default", params, options}}) {}

Sgd::Sgd(const std::vector<Group>& groups) : Optimizer("Sgd") {
  PINION_CHECK(!groups.empty(), "Sgd: expected at least one group of parameters");
  for (const Group& g : groups) {
    const SgdOptions& o = g.options;
    PINION_CHECK(std::isfinite(o.momentum) && o.momentum >= 0,
                 "Sgd: expected a finite momentum >= 0, got ", o.momentum);
    PINION_CHECK(std::isfinite(o.dampening), "Sgd: expected a finite dampening, got ", o.dampening);
    PINION_CHECK(!o.nesterov || (o.momentum > 0 && o.dampening == 0),
                 "Sgd: nesterov expects momentum > 0 and dampening 0, got momentum ", o.momentum,
                 ", dampening ", o.dampening);
    options_.push_back(o);
    if (o.momentum > 0)
      add_group(g.name, g.params, o.lr, o.weight_decay, {"momentum_buffer"});
    else
      add_group(g.name, g.params, o.lr, o.weight_decay, {});
  }
}

kernels::SgdStep Sgd::step_of(size_t group) const {
  const SgdOptions& o = options_[group];
  return {.lr = lr(group),
          .momentum = o.momentum,
          .dampening = o.dampening,
          .weight_decay = weight_decay(group),
          .nesterov = o.nesterov};
}

void Sgd::update(size_t group, Device device, const Views& views, int64_t steps,
                 double grad_scale) {
  kernels::SgdStep s = step_of(group);
  s.first = steps == 0;
  s.grad_scale = grad_scale;
  s.low = views.low;
  on(device, [&](auto& ctx) { kernels::sgd_step(ctx, views.w, views.dw, views.state[0], s); });
}

void Sgd::update_controlled(size_t group, Device device, const Views& views, const View& control) {
  kernels::SgdStep s = step_of(group);
  s.low = views.low;
  on(device, [&](auto& ctx) {
    kernels::sgd_step_controlled(ctx, views.w, views.dw, views.state[0], s, control);
  });
}

}  // namespace pinion::optim
