// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/gradient_sync.h"

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

void GradientSync::add(nn::Module& module) {
  if (group_.size() == 1) return;
  for (nn::NamedTensor& t : module.state()) group_.broadcast(t.tensor, 0).wait();
}

void GradientSync::add(optim::Optimizer& optimizer) {
  for (optim::Arena* arena : optimizer.arenas()) arenas_.push_back(arena);
}

void GradientSync::backward(const Tensor& loss, bool sync) {
  pinion::backward(loss);
  if (!sync || group_.size() == 1) return;
  for (optim::Arena* arena : arenas_) average(*arena);
}

void GradientSync::average(optim::Arena& arena) {
  std::vector<int32_t> used;
  for (const auto& item : arena.items()) used.push_back(item.param.grad().defined());
  Tensor anywhere = Tensor::of(used, {static_cast<int64_t>(used.size())}).to(arena.device());
  group_.all_reduce(anywhere, dist::ReduceOp::max).wait();
  const std::vector<int32_t> by_some = anywhere.to({}).values<int32_t>();
  for (size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    optim::Arena::Item item = arena.items()[i];  // handles
    on(arena.device(), [&](auto& ctx) { kernels::fill(ctx, item.grad.mut(), 0); });
    if (by_some[i]) item.param.set_grad(item.grad);
  }
  group_.all_reduce(arena.grads(), dist::ReduceOp::mean).wait();
}

}  // namespace pinion::accel
