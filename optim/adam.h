// SPDX-License-Identifier: Apache-2.0
// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), as torch.optim computes them.
#pragma once

#include "pinion/kernels/dispatch.h"
#include "pinion/optim/optimizer.h"

namespace pinion::optim {

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;  // in [0, 1): decay of the first and second moment
  double eps = 1e-8;
  double weight_decay = 0;  // L2: added to the gradient
  bool amsgrad = false;     // divides by the largest second moment so far
};

struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;  // decoupled: takes lr weight_decay of the weight itself
  bool amsgrad = false;
};

class Adam : public Optimizer {
 public:
  struct Group {
    std::string name;
    std::vector<nn::NamedTensor> params;
    AdamOptions options;
  };
  explicit Adam(const std::vector<nn::NamedTensor>& params, const AdamOptions& options = {});
  explicit Adam(const std::vector<Group>& groups);

 protected:
  Adam(const char* name, bool decoupled, const std::vector<Group>& groups);
  void update(size_t group, Device device, const Views& views, int64_t steps,
              double grad_scale) override;
  void update_controlled(size_t group, Device device, const Views& views,
                         const View& control) override;

 private:
  kernels::AdamStep step_of(size_t group) const;

  bool decoupled_;
  std::vector<AdamOptions> options_;  // per group; lr and weight_decay are the base's
};

class AdamW final : public Adam {
 public:
  struct Group {
    std::string name;
    std::vector<nn::NamedTensor> params;
    AdamWOptions options;
  };
  explicit AdamW(const std::vector<nn::NamedTensor>& params, const AdamWOptions& options = {});
  explicit AdamW(const std::vector<Group>& groups);
};

}  // namespace pinion::optim
