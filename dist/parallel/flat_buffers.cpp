// SPDX-License-Identifier: Apache-2.0
#include "pinion/dist/parallel/flat_buffers.h"

#include <span>

#include "pinion/optim/arena.h"
#include "pinion/runtime/allocator.h"

namespace pinion::dist {
namespace {

// Moves tensors of one dtype into one block, so that one operation sends them all.
Tensor flatten(std::span<Tensor> tensors) {
  const DType dtype = tensors[0].dtype();
  const int64_t unit = optim::Arena::kAlignment / size_of(dtype);
  const auto padded = [&](const Tensor& t) { return (t.numel() + unit - 1) / unit * unit; };
  int64_t size = 0, at = 0;
  for (const Tensor& t : tensors) size += padded(t);
  const MemoryTagScope tag(MemoryTag::parameters);
  Tensor block = Tensor::zeros({size}, dtype, tensors[0].device());
  for (Tensor& t : tensors) {
    t.rebind(block.rows(at, at + t.numel()).alias(t.shape()));
    at += padded(t);
  }
  return block;
}

}  // namespace

std::vector<Tensor> flatten_by_dtype(const std::vector<nn::NamedTensor>& named) {
  std::vector<std::vector<Tensor>> kinds;
  for (const nn::NamedTensor& n : named) {
    size_t k = 0;
    while (k < kinds.size() && kinds[k][0].dtype() != n.tensor.dtype()) ++k;
    if (k == kinds.size()) kinds.emplace_back();
    kinds[k].push_back(n.tensor);
  }
  std::vector<Tensor> blocks;
  for (std::vector<Tensor>& kind : kinds) blocks.push_back(flatten(kind));
  return blocks;
}

}  // namespace pinion::dist
