// SPDX-License-Identifier: Apache-2.0
#include "pinion/nn/low_precision.h"

#include <mutex>
#include <optional>
#include <vector>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/runtime/graph.h"

namespace pinion::nn {

struct LowPrecisionCopy::State {
  Tensor params;
  Tensor low;                  // undefined until a step finds that somebody has asked
  uint64_t version = 0;        // of params when low became their copy
  std::optional<DType> asked;  // since the last step
  bool writing = false;

  bool current() const { return low.defined() && version == params.version(); }
  void refresh() {
    on(params.device(), [&](auto& ctx) { kernels::cast(ctx, params, low.mut()); });
    version = params.version();
  }
  int64_t offset_of(const Tensor& w) const {  // in elements; negative where w is elsewhere
    const auto begin = reinterpret_cast<uintptr_t>(params.view().data);
    const auto at = reinterpret_cast<uintptr_t>(w.view().data);
    const auto bytes = static_cast<uintptr_t>(params.numel()) * sizeof(float);
    return at < begin || at - begin >= bytes ? -1 : static_cast<int64_t>((at - begin) / 4);
  }
};

namespace {

using State = LowPrecisionCopy::State;

struct Registry {
  std::mutex mutex;  // guards the list and what find() and begin() share of the states
  std::vector<std::shared_ptr<State>> states;
};
Registry& registry() {
  static Registry* const all = new Registry;  // outlives every optimizer
  return *all;
}

// A recording reads `low`, whatever happens between its replays: somebody may load weights, or ask
// for a copy of another type.
void keep_for_replays(const std::shared_ptr<State>& state) {
  before_replay(state.get(), [state, low = state->low]() mutable {
    const bool same = state->low.same(low);
    if (same) state->asked = low.dtype();
    if (same && state->current()) return;
    on(low.device(), [&](auto& ctx) { kernels::cast(ctx, state->params, low.mut()); });
    if (same) state->version = state->params.version();
  });
}

}  // namespace

LowPrecisionCopy::LowPrecisionCopy(const Tensor& params) : state_(std::make_shared<State>()) {
  PINION_CHECK(params.defined() && params.dtype() == DType::f32,
               "LowPrecisionCopy: expected f32 parameters");
  state_->params = params;
  const std::lock_guard lock(registry().mutex);
  registry().states.push_back(state_);
}

LowPrecisionCopy::~LowPrecisionCopy() {
  const std::lock_guard lock(registry().mutex);
  std::erase(registry().states, state_);
}

Tensor LowPrecisionCopy::find(const Tensor& w, DType low) {
  if (w.dtype() != DType::f32 || w.numel() == 0) return {};
  const std::lock_guard lock(registry().mutex);
  for (const std::shared_ptr<State>& s : registry().states) {
    const int64_t at = s->params.device() == w.device() ? s->offset_of(w) : -1;
    if (at < 0) continue;
    s->asked = low;
    if (!s->current() || s->low.dtype() != low) return {};
    if (recording()) keep_for_replays(s);
    return s->low.rows(at, at + w.numel()).alias(w.shape());
  }
  return {};
}

View LowPrecisionCopy::begin() {
  State& s = *state_;
  const std::lock_guard lock(registry().mutex);
  const std::optional<DType> asked = std::exchange(s.asked, {});
  s.writing = asked.has_value() && s.params.numel() > 0;
  const bool usable = s.writing && s.low.defined() && s.low.dtype() == *asked;
  if (recording()) s.writing = usable && s.current();  // what it would make would be its own
  if (!s.writing) return {};
  if (!usable) {
    amp::clear_cache();  // of what the copy is for, before there are two
    const MemoryTagScope tag(MemoryTag::parameters);
    s.low = Tensor(s.params.shape(), *asked, s.params.device());
  }
  if (!usable || !s.current()) s.refresh();
  return s.low.mut();
}

void LowPrecisionCopy::end() {
  State& s = *state_;
  const std::lock_guard lock(registry().mutex);
  const bool written = std::exchange(s.writing, false);
  if (written) s.version = s.params.version();
  on_replay([state = state_, low = written ? s.low : Tensor()] {
    (void)state->params.mut();
    if (low.defined() && state->low.same(low)) state->version = state->params.version();
  });
}

}  // namespace pinion::nn
