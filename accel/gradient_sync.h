// SPDX-License-Identifier: Apache-2.0
// GradientSync keeps the ranks of a data-parallel training equal: they start with the weights of
// rank 0, and after a backward that ends an accumulation window every rank has the mean of all
// gradients. The seam between Accelerator and data parallelism.
#pragma once

#include <memory>
#include <vector>

#include "pinion/dist/reducer.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::accel {

class GradientSync {
 public:
  GradientSync(dist::ProcessGroup& group, const dist::ReducerOptions& options,
               bool broadcast_buffers);

  void add(nn::Module& module);  // takes over rank 0's parameters and buffers
  void add(optim::Optimizer& optimizer);
  void forget();

  // Makes the buffers of a model (running statistics) rank 0's, if it trains and the step is one
  // where ranks meet.
  void before_forward(nn::Module& module, bool sync);
  // backward(loss), then the mean over the ranks of what it and earlier ones left, unless !sync.
  void backward(const Tensor& loss, bool sync);

 private:
  struct Model {
    nn::Module* module;
    std::vector<Tensor> buffers;  // blocks, one per dtype, that its buffers are pieces of
  };

  std::shared_ptr<dist::ProcessGroup> group_;
  dist::ReducerOptions options_;
  bool broadcast_buffers_;
  std::vector<Model> models_;
  std::vector<optim::Optimizer*> optimizers_;
  std::unique_ptr<dist::Reducer> reducer_;  // made by the first backward
};

}  // namespace pinion::accel
