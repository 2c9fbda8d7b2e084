// SPDX-License-Identifier: Apache-2.0
// VirtualShards: what makes a training with --deterministic the same bits on any number of ranks. A
// round of a loader, the batch of all ranks, is cut into V shards; a rank has V/W of them, a
// micro-batch each. Every shard starts from the buffers and counters that the round began with and
// draws noise of its own. After the last one, gradients are the sum over the shards and floating
// buffers (running statistics) the mean, both taken by dist::ShardTree; counts are those of shard
// 0.
#pragma once

#include <optional>
#include <vector>

#include "pinion/dist/parallel/shard_tree.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::accel {

class VirtualShards {
 public:
  VirtualShards(dist::ProcessGroup& group, int shards)
      : group_(group), shards_(shards), tree_(group, shards) {}

  int turns() const { return tree_.turns(); }  // micro-batches of each rank in a round
  // `buffers`: the blocks that the module's buffers are pieces of. Throws Error (config) for a
  // module with SyncBatchNorm.
  void add(nn::Module& module, const std::vector<Tensor>& buffers);
  void add(optim::Optimizer& optimizer);
  void forget();

  // The micro-batch that comes is the turn-th of the round.
  void begin(int turn);
  // [all] backward(loss), once a micro-batch. At the end of the round every rank has the gradients
  // of the round, added to those that were there before it, and gets the sum of the weights.
  std::optional<double> backward(const Tensor& loss, double weight);
  bool in_round() const { return turn_ >= 0; }  // some shards are done, and some not
  void leave_round() { turn_ = -1; }

 private:
  struct Model {
    nn::Module* module;
    std::vector<Tensor> buffers;
    std::vector<Tensor> before;              // the buffers when the round began
    std::vector<nn::NamedCounter> counters;  // and the counters
  };

  void set_earlier_aside();
  std::vector<optim::Arena*> arenas() const;
  std::vector<Tensor> gradients() const;
  std::vector<Tensor> floating_buffers() const;
  Tensor numbers(double weight) const;
  double finish_round();
  double take_numbers(const std::vector<double>& sums);  // the weight

  dist::ProcessGroup& group_;
  int shards_;
  dist::ShardTree tree_;
  std::vector<Model> models_;
  std::vector<optim::Optimizer*> optimizers_;
  int turn_ = -1;                // under way; -1: no round is
  bool done_ = false;            // backward() of this turn
  std::vector<Tensor> earlier_;  // gradients of the window's rounds before this one, or nothing
  std::vector<bool> earlier_reached_;  // which parameters had one
};

}  // namespace pinion::accel
