// SPDX-License-Identifier: Apache-2.0
// DataParallel: one process, one thread per device, one optimizer. Each step copies the parameters
// from device 0 to the replicas, cuts the batch, and adds the replicas' gradients up on device 0,
// as torch.nn.DataParallel does. It is here to be compared with: DistributedDataParallel sends half
// as much, while backward() runs.
//
//   dist::DataParallel dp(model, optimizer, {.devices = {Device{}, Device{}}});
//   backward(nn::cross_entropy(dp(x), y));                    // as PyTorch: logits on device 0
//   Tensor loss = dp.step(loss_of_replica, x, y);             // or tuned: a loss per replica
#pragma once

#include "pinion/dist/parallel/replicas.h"

namespace pinion::dist {

// Callable like the module. The module and the optimizer, made before, must outlive it, and it must
// outlive the graphs of its results. Batch-norm buffers are those of device 0's replica. Replicas
// draw their own dropout masks.
template <class M>
class DataParallel {
 public:
  DataParallel(M& module, optim::Optimizer& optimizer, const DataParallelOptions& options)
      : replicas_(module, optimizer, options) {
    typed_.push_back(&module);
    for (int i = 0; i < replicas_.count(); ++i) {
      owned_.push_back(std::make_unique<M>(module));
      replicas_.adopt(*owned_.back());
      if (i > 0) typed_.push_back(owned_.back().get());
    }
  }

  // All inputs [B, ..] are cut along B; the results [b, ..] of the replicas come back as one [B,
  // ..] on device 0, and its gradient goes the way back. Loss and optimizer are up to the caller.
  template <class... Inputs>
  Tensor operator()(const Inputs&... inputs) {
    return replicas_.forward(first_size(inputs...), [&](int i, auto part) {
      return (*owned_[static_cast<size_t>(i)])(part(inputs)...);
    });
  }

  // Forward, `loss(replica, inputs…)` -> [], the mean over its samples, and backward on every
  // device. Returns the mean over the batch, on device 0, outside the graph. Gradients are there.
  template <class Loss, class... Inputs>
  Tensor step(const Loss& loss, const Inputs&... inputs) {
    return replicas_.step(first_size(inputs...), [&](int i, auto part) {
      return loss(*typed_[static_cast<size_t>(i)], part(inputs)...);
    });
  }

 private:
  template <class... Inputs>
  static int64_t first_size(const Tensor& first, const Inputs&... rest) {
    const auto check = [&](const Tensor& x) {
      PINION_CHECK(x.rank() > 0 && x.size(0) == first.size(0),
                   "DataParallel: expected inputs of one batch, got ", first.shape(), " and ",
                   x.shape());
    };
    (check(first), ..., check(rest));
    return first.size(0);
  }

  std::vector<std::unique_ptr<M>> owned_;  // replicas; 0 shares the module's memory
  std::vector<M*> typed_;                  // the module itself, then replicas 1 …
  Replicas replicas_;
};

}  // namespace pinion::dist
