// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/checkpoint/parts.h"

#include <algorithm>

#include "pinion/nn/init.h"
#include "pinion/nn/weights.h"

namespace pinion::accel {
namespace {

constexpr const char* kCounter = "counter.";
constexpr const char* kStreams[] = {"init_streams", "noise_streams", "data_streams"};

}  // namespace

State ModelPart::state() {
  State out;
  out.put_all(nn::file_tensors(module_));
  for (const nn::NamedCounter& c : module_.counters()) out.put(kCounter + c.name, c.count);
  return out;
}

void ModelPart::load_state(const State& state) {
  std::vector<nn::NamedCounter> counters = module_.counters();
  for (nn::NamedCounter& c : counters) c.count = state.natural(kCounter + c.name);
  nn::load_file_tensors(module_, state.whole_tensors(), "checkpoint");
  module_.load_counters(counters);
}

State OptimizerPart::state() {
  State out;
  out.put_all(optimizer_.state());
  return out;
}

void OptimizerPart::load_state(const State& state) { optimizer_.load_state(state.whole_tensors()); }

State GradientsPart::state() {
  State out;
  out.open = true;
  for (const nn::NamedTensor& p : optimizer_.parameters())
    if (const Tensor grad = p.tensor.grad(); grad.defined()) out.put(p.name, grad);
  if (!out.tensors.empty()) out.put("pending_scale", optimizer_.pending_scale());
  return out;
}

void GradientsPart::load_state(const State& state) {
  PINION_REQUIRE(
      checkpoint, !state.values.count("layout"), "checkpoint: state '", state.part,
      "' holds sums of gradients of ZeRO stage 2 or 3 in an accumulation under way; save",
      " after an update to go on without");
  optimizer_.zero_grad();
  const std::vector<nn::NamedTensor> parameters = optimizer_.parameters();
  for (const StateTensor& t : state.tensors) {
    const auto at = std::find_if(parameters.begin(), parameters.end(),
                                 [&](const nn::NamedTensor& p) { return p.name == t.name; });
    PINION_REQUIRE(checkpoint, at != parameters.end(), "checkpoint: state '", state.part, ".",
                   t.name, "' is a gradient of no parameter");
    PINION_REQUIRE(checkpoint,
                   t.tensor.shape() == at->tensor.shape() && t.tensor.dtype() == at->tensor.dtype(),
                   "checkpoint: state '", state.part, ".", t.name, "' should be ",
                   at->tensor.dtype(), " ", at->tensor.shape(), ", got ", t.tensor.dtype(), " ",
                   t.tensor.shape());
    Tensor parameter = at->tensor;
    parameter.set_grad(t.tensor.to(parameter.device()));
  }
  if (state.tensors.empty()) return;
  // Inside a window it is 1, and asking for more would have a sharded optimizer reduce too early.
  if (const double scale = state.real("pending_scale"); scale != 1)
    optimizer_.multiply_gradients(scale);
}

State SchedulerPart::state() {
  State out;
  out.put("updates", scheduler_.updates());
  return out;
}

void SchedulerPart::load_state(const State& state) {
  const int64_t updates = state.integer("updates");
  PINION_REQUIRE(checkpoint, updates >= 0, "checkpoint: state '", state.part,
                 ".updates' should not be negative, got ", updates);
  scheduler_.set_updates(updates);
}

State ScalerPart::state() {
  State out;
  out.put_all(scaler_.state());
  return out;
}

void ScalerPart::load_state(const State& state) { scaler_.load_state(state.whole_tensors()); }

State RandomPart::state() {
  const RandomState now = random_state();
  State out;
  out.put("seed", now.seed);
  for (size_t i = 0; i < std::size(kStreams); ++i) out.put(kStreams[i], uint64_t{now.streams[i]});
  return out;
}

void RandomPart::load_state(const State& state) {
  RandomState next{state.natural("seed"), {}};
  for (size_t i = 0; i < std::size(kStreams); ++i) {
    const uint64_t count = state.natural(kStreams[i]);
    PINION_REQUIRE(checkpoint, count < (1u << 28), "checkpoint: state '", state.part, ".",
                   kStreams[i], "' should be below 2^28, got ", count);
    next.streams[i] = static_cast<uint32_t>(count);
  }
  set_random_state(next);
}

State TrackerPart::state() {
  State out;
  out.open = tracker_ == nullptr;
  if (tracker_) out.put("position", tracker_->position());
  return out;
}

void TrackerPart::load_state(const State& state) {
  if (tracker_) tracker_->go_back(state.integer("position"));
}

}  // namespace pinion::accel
