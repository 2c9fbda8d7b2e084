// SPDX-License-Identifier: Apache-2.0
// What all optimizers share: groups, the walk over ranges, the pending factor, and state by name.
#include "pinion/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_set>

#include "pinion/kernels/kernels.h"

namespace pinion::optim {
namespace {

template <class Void>
BasicView<Void> part(const BasicView<Void>& block, const Arena::Range& range) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return {static_cast<Byte*>(block.data) + range.begin * size_of(block.dtype),
          {range.end - range.begin},
          block.dtype};
}

Tensor number(double value) { return Tensor::of<double>({value}, {}); }

bool starts_with(const std::string& text, const char* prefix) {
  return std::string_view(text).starts_with(prefix);
}

}  // namespace

void Optimizer::check_parameters(const std::string& group,
                                 const std::vector<nn::NamedTensor>& params) const {
  PINION_CHECK(!params.empty(), name_, ": expected parameters in group ", group, ", got none");
  std::unordered_set<std::string_view> names;
  std::unordered_set<const void*> blocks;
  for (const Group& g : groups_) {
    PINION_CHECK(g.name != group, name_, ": expected groups of different names, got two named ",
                 group);
    for (const nn::NamedTensor& p : g.params) {
      names.insert(p.name);
      if (p.tensor.numel() > 0) blocks.insert(p.tensor.view().data);
    }
  }
  for (const nn::NamedTensor& p : params) {
    const Tensor& t = p.tensor;
    PINION_CHECK(t.defined(), name_, ": expected a tensor as parameter ", p.name,
                 ", got an undefined one");
    PINION_CHECK(is_floating(t.dtype()), name_, ": expected a floating type for parameter ", p.name,
                 ", got ", t.dtype());
    PINION_CHECK(!t.node(), name_, ": expected a leaf as parameter ", p.name, ", got a result");
    PINION_CHECK(names.insert(p.name).second, name_,
                 ": expected different names, got two parameters ", p.name);
    PINION_CHECK(t.numel() == 0 || blocks.insert(t.view().data).second, name_,
                 ": expected each parameter once, but ", p.name, " shares its memory with another");
  }
}

void Optimizer::add_group(std::string name, const std::vector<nn::NamedTensor>& params, double lr,
                          double weight_decay, std::initializer_list<const char*> state_names) {
  check_parameters(name, params);
  groups_.push_back({std::move(name), lr, 0, 0, {}, state_names.size(), params});
  set_lr(groups_.size() - 1, lr);
  set_weight_decay(groups_.size() - 1, weight_decay);
  std::vector<std::vector<nn::NamedTensor>> kinds;  // by dtype and device, in the order they come
  for (const nn::NamedTensor& p : params) {
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) {
      return k[0].tensor.dtype() == p.tensor.dtype() && k[0].tensor.device() == p.tensor.device();
    });
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), std::vector<nn::NamedTensor>());
    kind->push_back(p);
  }
  for (std::vector<nn::NamedTensor>& kind : kinds) {
    Arena& arena = groups_.back().arenas.emplace_back(std::move(kind));
    for (const char* state : state_names) arena.add_state(state);
  }
}

const Optimizer::Group& Optimizer::at(size_t group) const {
  PINION_CHECK(group < groups_.size(), name_, ": expected a group below ", groups_.size(), ", got ",
               group);
  return groups_[group];
}

void Optimizer::set_lr(size_t group, double lr) {
  (void)at(group);
  PINION_CHECK(std::isfinite(lr) && lr >= 0, name_, ": expected a finite lr >= 0, got ", lr);
  groups_[group].lr = lr;
  if (is_capturable()) write_lr(group);
}

void Optimizer::set_weight_decay(size_t group, double weight_decay) {
  (void)at(group);
  PINION_CHECK(std::isfinite(weight_decay) && weight_decay >= 0, name_,
               ": expected a finite weight_decay >= 0, got ", weight_decay);
  groups_[group].weight_decay = weight_decay;
}

std::vector<Arena*> Optimizer::arenas() {
  std::vector<Arena*> out;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas) out.push_back(&arena);
  return out;
}

std::vector<nn::NamedTensor> Optimizer::parameters() {
  std::vector<nn::NamedTensor> out;
  for (const Group& group : groups_)
    out.insert(out.end(), group.params.begin(), group.params.end());
  return out;
}

Optimizer::Views Optimizer::views_of(Group& group, Arena& arena, const Arena::Range& range,
                                     const View& low) {
  Views views{part(arena.params().mut(), range), part(arena.grads().view(), range), {}, {}};
  if (low) views.low = part(low, range);
  for (size_t i = 0; i < group.states; ++i)
    views.state[i] = part(arena.state_block(i).mut(), range);
  return views;
}

void Optimizer::step(double grad_scale) {
  PINION_CHECK(std::isfinite(grad_scale), name_, ": expected a finite grad_scale, got ",
               grad_scale);
  if (is_capturable()) return capturable_step(grad_scale);
  check_pending();
  const double scale = grad_scale * pending_scale_;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (Arena& arena : groups_[g].arenas) {
      const std::span<const Arena::Range> ranges = arena.ranges();
      if (ranges.empty()) continue;
      const View low = arena.begin_update();
      for (const Arena::Range& range : ranges) {
        update(g, arena.device(), views_of(groups_[g], arena, range, low), range.steps, scale);
        arena.count_step(range);
      }
      arena.end_update();
    }
  }
}

void Optimizer::zero_grad() {
  for (Group& group : groups_)
    for (Arena& arena : group.arenas) arena.zero_grad();
  pending_scale_ = 1;
}

uint64_t Optimizer::gradient_version() {
  uint64_t sum = 0;  // versions only grow, so an equal sum means that none has changed
  for (Group& group : groups_)
    for (Arena& arena : group.arenas) sum += arena.grads().version();
  return sum;
}

void Optimizer::check_pending() {
  PINION_CHECK(
      pending_scale_ == 1 || gradient_version() == pending_version_, name_,
      ": gradients were written after they were unscaled or clipped; call zero_grad() after "
      "each step, or apply_pending_scale() before changing them");
}

void Optimizer::multiply_gradients(double factor) {
  PINION_CHECK(!is_capturable(), name_,
               ": a capturable optimizer decides on its device: use limit_norm() and divide_by()");
  PINION_CHECK(std::isfinite(factor), name_, ": expected a finite factor for the gradients, got ",
               factor);
  check_pending();
  pending_scale_ *= factor;
  pending_version_ = gradient_version();
}

void Optimizer::apply_pending_scale() {
  check_pending();
  if (pending_scale_ == 1) return;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (const Arena::Range& range : arena.ranges())
        on(arena.device(), [&](auto& ctx) {
          const View g = part(arena.grads().mut(), range);
          kernels::affine(ctx, g, pending_scale_, 0, g);
        });
  pending_scale_ = 1;
}

GradStats Optimizer::grad_stats() {
  // A gradient that comes or goes without a write changes the layout of ranges, not the version.
  int64_t elements = 0;
  uint64_t layout = 0;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (const Arena::Range& range : arena.ranges()) {
        elements += range.end - range.begin;
        layout = layout * 0x100000001b3u + static_cast<uint64_t>(range.begin) + 1;  // FNV's prime
      }
  const uint64_t version = gradient_version();
  if (!last_stats_.valid || last_stats_.version != version || last_stats_.elements != elements ||
      last_stats_.layout != layout)
    last_stats_ = {true, version, elements, layout, measure()};
  return last_stats_.found;
}

GradStats Optimizer::measure() {
  GradStats total;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (const Arena::Range& range : arena.ranges()) {
        if (!stats_.defined() || stats_.device() != arena.device())
          stats_ = Tensor({2}, DType::f64, arena.device());
        on(arena.device(), [&](auto& ctx) {
          kernels::squares_and_nonfinite(ctx, part(arena.grads().view(), range), stats_.mut());
        });
        double found[2];
        copy({}, found, stats_.device(), stats_.view().data, sizeof found);
        total.squares += found[0];
        total.nonfinite += found[1];
      }
  return total;
}

std::vector<nn::NamedTensor> Optimizer::state() {
  if (is_capturable()) take_steps_from_device();
  std::vector<nn::NamedTensor> out;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas) arena.list_state(out);
  for (const Group& group : groups_) {
    out.push_back({"lr." + group.name, number(group.lr)});
    out.push_back({"weight_decay." + group.name, number(group.weight_decay)});
  }
  return out;
}

// Refuses numbers that set_lr() and its like would refuse, before anything is changed.
void Optimizer::check_numbers(const std::vector<nn::NamedTensor>& state) const {
  for (const nn::NamedTensor& t : state) {
    if (!t.tensor.defined() || t.tensor.numel() != 1 || t.tensor.rank() != 0) continue;
    const bool is_number = starts_with(t.name, "step.") || starts_with(t.name, "lr.") ||
                           starts_with(t.name, "weight_decay.");
    if (!is_number) continue;
    const double value = t.tensor.item();
    PINION_REQUIRE(checkpoint, std::isfinite(value) && value >= 0, name_, ": expected ", t.name,
                   " >= 0, got ", value);
  }
}

void Optimizer::load_state(const std::vector<nn::NamedTensor>& state) {
  check_numbers(state);
  const std::vector<nn::NamedTensor> live = this->state();
  nn::copy_state(name_, live, state);
  size_t at = 0;  // walks `live` in the order in which state() made it
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (size_t i = 0; i < arena.items().size(); ++i) {
        at += group.states;
        arena.set_steps(i, live[at++].tensor.view().as<int64_t>()[0]);
      }
  for (Group& group : groups_) {
    group.lr = live[at++].tensor.item();
    group.weight_decay = live[at++].tensor.item();
  }
  if (is_capturable()) make_capturable();
}

}  // namespace pinion::optim
