// SPDX-License-Identifier: Apache-2.0
// GradientSync keeps the ranks of a data-parallel training equal: they start with the weights of
// rank 0, and after a backward that ends an accumulation window every rank has the mean of all
// gradients. The seam between Accelerator and data parallelism.
#pragma once

#include <vector>

#include "pinion/dist/process_group.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::accel {

class GradientSync {
 public:
  explicit GradientSync(dist::ProcessGroup& group) : group_(group) {}

  void add(nn::Module& module);  // takes over rank 0's parameters and buffers
  void add(optim::Optimizer& optimizer);
  void forget() { arenas_.clear(); }

  // backward(loss), then the mean over the ranks of what it and earlier ones left, unless !sync.
  // A parameter that no rank used has no gradient afterwards; one that some rank used has one on
  // every rank.
  void backward(const Tensor& loss, bool sync);

 private:
  void average(optim::Arena& arena);

  dist::ProcessGroup& group_;
  std::vector<optim::Arena*> arenas_;
};

}  // namespace pinion::accel
