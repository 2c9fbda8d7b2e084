// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum, as torch.optim.SGD computes it.
#pragma once

#include "pinion/kernels/dispatch.h"
#include "pinion/optim/optimizer.h"

namespace pinion::optim {

struct SgdOptions {
  double lr = 1e-3;
  double momentum = 0;      // in [0, inf); 0 keeps no state
  double dampening = 0;     // of the gradient that enters the momentum
  double weight_decay = 0;  // L2: added to the gradient
  bool nesterov = false;    // needs momentum and no dampening
};

class Sgd final : public Optimizer {
 public:
  struct Group {
    std::string name;
    std::vector<nn::NamedTensor> params;
    SgdOptions options;
  };
  explicit Sgd(const std::vector<nn::NamedTensor>& params, const SgdOptions& options = {});
  explicit Sgd(const std::vector<Group>& groups);

 protected:
  void update(size_t group, Device device, const Views& views, int64_t steps,
              double grad_scale) override;
  void update_controlled(size_t group, Device device, const Views& views,
                         const View& control) override;

 private:
  kernels::SgdStep step_of(size_t group) const;

  std::vector<SgdOptions> options_;  // per group; lr and weight_decay are the base's
};

}  // namespace pinion::optim
