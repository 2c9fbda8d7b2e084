// SPDX-License-Identifier: Apache-2.0
// The memory's equations, one step after the other.
#include "pinion/apps/report/relational_memory.h"

namespace pinion::report {

RelationalMemory::RelationalMemory(int64_t width, int64_t heads, int64_t slots)
    : attn(width, heads),
      mlp(width, width, width),
      W(width, 2 * width),
      U(width, 2 * width),
      slots_(slots) {
  PINION_REQUIRE(usage, slots >= 1 && slots <= width,
                 "--rm_num_slots: expected from 1 to the width ", width, ", got ", slots);
}

Tensor RelationalMemory::initial(int64_t batch) const {
  const int64_t width = W.weight.size(1);
  std::vector<double> rows(static_cast<size_t>(batch * slots_ * width));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t s = 0; s < slots_; ++s)
      rows[static_cast<size_t>((b * slots_ + s) * width + s)] = 1;
  const Tensor memory = Tensor::of(rows, {batch, slots_, width});
  return nn::cast(memory, W.weight.dtype()).to(W.weight.device());
}

Tensor RelationalMemory::step(const Tensor& memory, const Tensor& word) {
  const int64_t batch = memory.size(0), width = memory.size(2);
  const Tensor seen = nn::concat({memory, nn::reshape(word, {batch, 1, width})}, 1);
  Tensor next = memory + attn(memory, seen);
  next = next + mlp(next, Activation::relu);

  const Tensor of_word = nn::reshape(W(word), {batch, 1, 2 * width});
  Tensors each_slot;
  for (int64_t s = 0; s < slots_; ++s) each_slot.push_back(of_word);
  const Tensor gates = nn::concat(each_slot, 1) + U(nn::tanh(memory));
  const Tensor input = nn::sigmoid(nn::slice(gates, 2, 0, width));
  const Tensor forget = nn::sigmoid(nn::slice(gates, 2, width, 2 * width));
  return input * nn::tanh(next) + forget * memory;
}

Tensor RelationalMemory::operator()(const Tensor& words) {
  const int64_t batch = words.size(0), steps = words.size(1), width = words.size(2);
  Tensor memory = initial(batch);
  Tensors all;
  for (int64_t t = 0; t < steps; ++t) {
    memory = step(memory, nn::reshape(nn::slice(words, 1, t, t + 1), {batch, width}));
    all.push_back(nn::reshape(memory, {batch, 1, slots_ * width}));
  }
  return nn::concat(all, 1);
}

void RelationalMemory::fields(nn::Fields& f) {
  f("attn", attn);
  f("mlp", mlp);
  f("W", W);
  f("U", U);
}

}  // namespace pinion::report
