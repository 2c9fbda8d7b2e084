// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/checkpoint/zero_parts.h"

#include "pinion/runtime/crc32c.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

// Numbers are whole on every rank; a parameter of one element is somebody's.
bool is_number(const optim::StateSlice& slice) {
  if (slice.shape.rank() > 0) return false;
  for (const char* kind : {"step.", "lr.", "weight_decay."})
    if (slice.name.starts_with(kind)) return true;
  return false;
}

// By the name of its place among the parts of all arenas.
std::vector<NamedTensor> sums_of(optim::Optimizer& optimizer) {
  std::vector<NamedTensor> out;
  for (optim::Arena* arena : optimizer.arenas())
    for (const optim::Arena::Part& part : arena->parts())
      out.push_back({cat({"sum.", out.size()}), part.grads});
  return out;
}

// Tells layouts apart in which the parts are other elements, be they as many.
uint64_t layout_of(optim::Optimizer& optimizer) {
  std::vector<int64_t> places;
  for (optim::Arena* arena : optimizer.arenas()) {
    for (const optim::Arena::Item& item : arena->items()) places.push_back(item.offset);
    for (const optim::Arena::Part& part : arena->parts()) places.push_back(part.end);
  }
  return crc32c(places.data(), places.size() * sizeof(int64_t));
}

}  // namespace

State OptimizerSlicesPart::state() {
  State out;
  for (const optim::StateSlice& slice : optimizer_.state_slices()) {
    if (is_number(slice))
      out.put(slice.name, slice.values.alias({}));
    else if (slice.values.numel() > 0)
      out.put(slice.name, slice.values, {slice.shape, slice.offset});
  }
  return out;
}

void OptimizerSlicesPart::load_state(const State& state) {
  optimizer_.load_slices([&](const optim::StateSlice& slice) {
    return slice.values.numel() > 0 ? state.tensor(slice.name) : slice.values;
  });
}

State GradientSumsPart::state() {
  State out;
  out.open = true;
  std::string reached;  // a digit for each parameter
  for (optim::Arena* arena : optimizer_.arenas())
    for (const optim::Arena::Item& item : arena->items()) reached += item.reached ? '1' : '0';
  if (reached.find('1') == std::string::npos) return out;
  out.put("reached", reached);
  out.put("layout", layout_of(optimizer_));
  out.put("pending_scale", optimizer_.pending_scale());
  out.put_all(sums_of(optimizer_));
  return out;
}

void GradientSumsPart::load_state(const State& state) {
  optimizer_.zero_grad();
  if (state.values.empty()) return;
  PINION_REQUIRE(
      checkpoint, state.values.count("layout") && state.natural("layout") == layout_of(optimizer_),
      "checkpoint: state '", state.part, "' holds gradients of an accumulation under way, of",
      " another ZeRO stage or other units; save after an update to change those");
  const std::string& reached = state.text("reached");
  PINION_REQUIRE(checkpoint, reached.size() == optimizer_.parameters().size(),
                 "checkpoint: state '", state.part, ".reached' should have ",
                 optimizer_.parameters().size(), " digits, got ", reached.size());
  nn::copy_state("checkpoint", sums_of(optimizer_), state.whole_tensors());
  size_t next = 0;
  for (optim::Arena* arena : optimizer_.arenas())
    for (size_t i = 0; i < arena->items().size(); ++i)
      arena->set_reached(i, reached[next++] == '1');
  zero_.keep_sums();
  if (const double scale = state.real("pending_scale"); scale != 1)
    optimizer_.multiply_gradients(scale);
}

}  // namespace pinion::accel
