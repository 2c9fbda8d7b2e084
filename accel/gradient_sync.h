// SPDX-License-Identifier: Apache-2.0
// GradientSync keeps the ranks of a data-parallel training equal: they start with the weights of
// rank 0, and after a backward that ends an accumulation window every rank has the mean of all
// gradients, or with ZeRO of its shards. The seam between Accelerator and data parallelism.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "pinion/accel/virtual_shards.h"
#include "pinion/dist/parallel/reducer.h"
#include "pinion/dist/zero/zero.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::accel {

class GradientSync {
 public:
  // zero.stage 0: plain data parallelism. On one rank nothing is sharded either. virtual_shards 0:
  // training is not deterministic over numbers of ranks.
  GradientSync(dist::ProcessGroup& group, const dist::ReducerOptions& options,
               bool broadcast_buffers, const dist::ZeroOptions& zero, int virtual_shards);

  void add(nn::Module& module);  // takes over rank 0's parameters and buffers
  void add(optim::Optimizer& optimizer);
  void forget();
  // With ZeRO: shards the optimizers whose models are all here by now.
  void shard();

  // Makes the buffers of a model (running statistics) rank 0's, if it trains and the step is one
  // where ranks meet.
  void before_forward(nn::Module& module, bool sync);
  // backward(loss), then the mean over the ranks of what it and earlier ones left, unless !sync.
  // ZeRO adds up the means of every backward at stages 2 and 3, and at stage 1 takes the mean when
  // the optimizer asks for it, so that any number of losses may come before.
  void backward(const Tensor& loss, bool sync);
  VirtualShards* virtual_shards() { return shards_ ? &*shards_ : nullptr; }

  // Stage 3: whether the parameters of this module are there only inside of run(), and f() with
  // them there.
  bool gathers(const nn::Module& module) const;
  Tensor run(nn::Module& module, const std::function<Tensor()>& f) { return run(module, f, 0); }
  using Whole = std::vector<std::unique_ptr<dist::Zero::Whole>>;
  Whole whole();  // while it lives, all parameters are there
  dist::Zero* zero_of(const optim::Optimizer& optimizer) const;  // null: it is not sharded

 private:
  struct Model {
    nn::Module* module;
    std::vector<Tensor> buffers;  // blocks, one per dtype, that its buffers are pieces of
  };
  struct Trained {
    optim::Optimizer* optimizer;
    std::unique_ptr<dist::Zero> zero;  // null until shard() finds its models
    std::vector<nn::Module*> units;    // of stage 3
  };

  void backward_plain(const Tensor& loss, bool sync);
  void shard(Trained& trained);
  Tensor run(nn::Module& module, const std::function<Tensor()>& f, size_t from);

  std::shared_ptr<dist::ProcessGroup> group_;
  dist::ReducerOptions options_;
  bool broadcast_buffers_;
  dist::ZeroOptions zero_;
  std::vector<Model> models_;
  std::vector<Trained> optimizers_;
  std::unique_ptr<dist::Reducer> reducer_;  // made by the first backward
  std::optional<VirtualShards> shards_;
};

}  // namespace pinion::accel
