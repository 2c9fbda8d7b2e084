// SPDX-License-Identifier: Apache-2.0
// Equal replicas at the start, and the loop of a rank that is through.
#include "pinion/dist/parallel/distributed_data_parallel.h"

#include "pinion/dist/parallel/flat_buffers.h"
#include "pinion/runtime/autograd.h"

namespace pinion::dist {

DistributedDataParallelBase::DistributedDataParallelBase(nn::Module& module,
                                                         optim::Optimizer& optimizer,
                                                         std::shared_ptr<ProcessGroup> group,
                                                         const DdpOptions& options)
    : module_(module),
      broadcast_buffers_(options.broadcast_buffers),
      reducer_(optimizer.arenas(), std::move(group), options) {
  const std::vector<optim::Arena*> arenas = optimizer.arenas();
  for (const nn::NamedTensor& p : module_.named_parameters()) {
    bool held = !p.tensor.requires_grad();
    for (const optim::Arena* arena : arenas)
      for (const optim::Arena::Item& item : arena->items()) held |= item.param.same(p.tensor);
    PINION_CHECK(held, "DistributedDataParallel: expected an optimizer of all trainable ",
                 "parameters, but it has none named ", p.name);
  }
  buffers_ = flatten_by_dtype(module_.named_buffers());
  if (this->group().size() == 1) return;
  for (Tensor parameter : module_.parameters()) this->group().broadcast(parameter, 0).wait();
  sync_buffers();
}

void DistributedDataParallelBase::sync_buffers(int source) {
  if (group().size() == 1) return;
  for (const Tensor& block : buffers_) group().broadcast(block, source).wait();
}

void DistributedDataParallelBase::before_forward() {
  if (!module_.training() || !grad_enabled() || !reducer_.synchronises()) return;
  const int source = joining_ ? reducer_.begin_step() : 0;
  if (broadcast_buffers_) sync_buffers(source);
}

void DistributedDataParallelBase::backward(const Tensor& loss) {
  PINION_CHECK(!reducer_.options().weighted,
               "DistributedDataParallel: expected a weight for backward(), as `weighted` says");
  pinion::backward(loss);
  reducer_.finish();
}

void DistributedDataParallelBase::backward(const Tensor& loss, double weight) {
  reducer_.add_weight(weight);
  pinion::backward(loss, Tensor::full(loss.shape(), weight, loss.dtype(), loss.device()));
  reducer_.finish();
}

void DistributedDataParallelBase::join(const std::function<void()>& steps,
                                       const std::function<void()>& update) {
  PINION_CHECK(!joining_, "join: expected one at a time, got one within another");
  const auto leave = [&] { joining_ = false, reducer_.end_join(); };
  joining_ = true;
  reducer_.begin_join();
  try {
    steps();
    const auto as_the_others = [&](int source) {
      if (broadcast_buffers_ && module_.training()) sync_buffers(source);
    };
    while (reducer_.shadow(as_the_others)) update();
  } catch (...) {
    leave();
    throw;
  }
  leave();
}

}  // namespace pinion::dist
