// SPDX-License-Identifier: Apache-2.0
// DistributedDataParallel: one replica of a model per rank, equal at the start, and kept equal by
// averaging gradients while backward() runs.
//
//   optim::AdamW optimizer(model.named_parameters());
//   dist::DistributedDataParallel ddp(model, optimizer, group);
//   for (auto& [x, y] : loader) {          // this rank's part of the data
//     ddp.backward(nn::cross_entropy(ddp(x), y));
//     optimizer.step();
//     optimizer.zero_grad();
//   }
//
// Make the optimizer first: gradients live in its arenas, so nothing is copied on their way out.
#pragma once

#include <functional>

#include "pinion/dist/parallel/reducer.h"
#include "pinion/nn/module.h"
#include "pinion/optim/optimizer.h"

namespace pinion::dist {

struct DdpOptions : ReducerOptions {
  // Before the forward() of a synchronised training step, buffers (running statistics of batch
  // norm) become those of rank 0, or under join() those of the lowest rank that has a batch.
  bool broadcast_buffers = true;
};

// What does not depend on the model's type.
class DistributedDataParallelBase {
 public:
  DistributedDataParallelBase(nn::Module& module, optim::Optimizer& optimizer,
                              std::shared_ptr<ProcessGroup> group, const DdpOptions& options = {});

  // pinion::backward(loss), then the end of the step: gradients are the same on all ranks. Under
  // no_sync() they stay local.
  void backward(const Tensor& loss);
  // `weighted`: loss is the mean over something of weight `weight`; see dist/parallel/reducer.h.
  void backward(const Tensor& loss, double weight);
  [[nodiscard]] Reducer::NoSync no_sync() { return reducer_.no_sync(); }
  Reducer& reducer() { return reducer_; }
  ProcessGroup& group() { return reducer_.group(); }

  // Runs `steps`, whose number may differ between ranks. A rank that is through takes part in the
  // steps of the others until all are, and calls `update` after each, which should be what `steps`
  // does after backward(): optimizer.step(), zero_grad(), the schedule. So all ranks stay equal,
  // optimizer state included. Each step has one synchronised forward() and backward(). All ranks
  // call it together. Other collectives in `steps`, SyncBatchNorm's too, would find no partner.
  void join(const std::function<void()>& steps, const std::function<void()>& update);

  // Makes every rank's buffers those of `source`; to be called before evaluation when ranks should
  // agree to the last bit, as they have seen different batches since the last forward().
  void sync_buffers(int source = 0);

 protected:
  ~DistributedDataParallelBase() = default;
  void before_forward();

 private:
  nn::Module& module_;
  bool broadcast_buffers_, joining_ = false;
  Reducer reducer_;
  std::vector<Tensor> buffers_;  // flat blocks, one per dtype, where the module's buffers live now
};

// Callable like the module. The module must outlive it.
template <class M>
class DistributedDataParallel final : public DistributedDataParallelBase {
 public:
  DistributedDataParallel(M& module, optim::Optimizer& optimizer,
                          std::shared_ptr<ProcessGroup> group, const DdpOptions& options = {})
      : DistributedDataParallelBase(module, optimizer, std::move(group), options),
        module_(module) {}

  template <class... Args>
  decltype(auto) operator()(Args&&... args) {
    before_forward();
    return module_(std::forward<Args>(args)...);
  }
  M& module() { return module_; }

 private:
  M& module_;
};

}  // namespace pinion::dist
