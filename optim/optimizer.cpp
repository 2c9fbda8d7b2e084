// SPDX-License-Identifier: Apache-2.0
// What all optimizers share: groups, the walk over ranges, the pending factor, and state by name.
#include "pinion/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "pinion/kernels/kernels.h"

namespace pinion::optim {
namespace {

// Elements [begin, begin + count) of a block.
template <class Void>
BasicView<Void> piece(const BasicView<Void>& block, int64_t begin, int64_t count) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return {static_cast<Byte*>(block.data) + begin * size_of(block.dtype), {count}, block.dtype};
}

ConstView gradients(Arena& arena, const Arena::Range& range) {
  const Arena::Part& part = arena.parts()[range.part];
  return piece(part.grads.view(), range.begin - part.begin, range.end - range.begin);
}

Tensor number(double value) { return Tensor::of<double>({value}, {int64_t{1}}); }

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
  Arena::Part& part = arena.parts()[range.part];
  const int64_t begin = range.begin - part.begin, count = range.end - range.begin;
  Views views{piece(part.params.mut(), begin, count), gradients(arena, range), {}, {}};
  if (low) views.low = piece(low, range.begin, count);
  for (size_t i = 0; i < group.states; ++i)
    views.state[i] = piece(arena.state_block(i).mut(), part.state + begin, count);
  return views;
}

void Optimizer::update_range(size_t group, Arena& arena, const Arena::Range& range, const View& low,
                             double grad_scale) {
  const auto take = [&](const Arena::Range& r, const ConstView& gradients) {
    Views views = views_of(groups_[group], arena, r, low);
    if (gradients) views.dw = gradients;
    update(group, arena.device(), views, r.steps, grad_scale);
  };
  if (sharding_) return sharding_->update_range(arena, range, take);
  take(range, {});
}

void Optimizer::step(double grad_scale) {
  PINION_CHECK(std::isfinite(grad_scale), name_, ": expected a finite grad_scale, got ",
               grad_scale);
  if (is_capturable()) return capturable_step(grad_scale);
  if (sharding_) sharding_->before_step();
  check_pending();
  const double scale = grad_scale * pending_scale_;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (Arena& arena : groups_[g].arenas) {
      const std::span<const Arena::Range> ranges = arena.ranges();
      if (!ranges.empty()) {
        const View low = arena.begin_update();
        for (const Arena::Range& range : ranges) update_range(g, arena, range, low, scale);
        arena.end_update();
      }
      arena.count_step();
    }
  }
  if (sharding_) sharding_->after_step();
}

void Optimizer::zero_grad() {
  if (sharding_) sharding_->zero_grad();
  for (Group& group : groups_)
    for (Arena& arena : group.arenas) arena.zero_grad();
  pending_scale_ = 1;
}

uint64_t Optimizer::gradient_version() {
  uint64_t sum = 0;  // versions only grow, so an equal sum means that none has changed
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (const Arena::Part& part : arena.parts()) sum += part.grads.version();
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
  finish_gradients();
  check_pending();
  pending_scale_ *= factor;
  pending_version_ = gradient_version();
}

void Optimizer::apply_pending_scale() {
  finish_gradients();
  check_pending();
  if (pending_scale_ == 1) return;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (const Arena::Range& range : arena.ranges())
        on(arena.device(), [&](auto& ctx) {
          const ConstView g = gradients(arena, range);
          (void)arena.parts()[range.part].grads.mut();  // counts as a write
          kernels::affine(ctx, g, pending_scale_, 0, {const_cast<void*>(g.data), g.shape, g.dtype});
        });
  pending_scale_ = 1;
}

GradStats Optimizer::grad_stats() {
  finish_gradients();
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
  if (sharding_) return sharding_->measure();
  GradStats total;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (const Arena::Range& range : arena.ranges()) {
        if (!stats_.defined() || stats_.device() != arena.device())
          stats_ = Tensor({2}, DType::f64, arena.device());
        on(arena.device(), [&](auto& ctx) {
          kernels::squares_and_nonfinite(ctx, gradients(arena, range), stats_.mut());
        });
        double found[2];
        copy({}, found, stats_.device(), stats_.view().data, sizeof found);
        total.squares += found[0];
        total.nonfinite += found[1];
      }
  return total;
}

std::vector<StateSlice> Optimizer::state_slices() {
  if (is_capturable()) take_steps_from_device();
  std::vector<StateSlice> out;
  for (Group& group : groups_)
    for (Arena& arena : group.arenas) arena.list_state(out);
  for (const Group& group : groups_) {
    out.push_back({"lr." + group.name, Shape{}, 0, number(group.lr)});
    out.push_back({"weight_decay." + group.name, Shape{}, 0, number(group.weight_decay)});
  }
  return out;
}

std::vector<nn::NamedTensor> Optimizer::state() {
  PINION_CHECK(!is_sharded(), name_, ": a sharded optimizer has slices of its state only");
  std::vector<nn::NamedTensor> out;
  for (StateSlice& slice : state_slices())
    out.push_back({std::move(slice.name), slice.values.alias(slice.shape)});
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
  const std::vector<StateSlice> live = state_slices();
  std::unordered_map<std::string_view, const StateSlice*> by_name;
  for (const StateSlice& slice : live) by_name[slice.name] = &slice;
  check_numbers(state);
  std::vector<nn::NamedTensor> slices = state;
  for (nn::NamedTensor& t : slices) {
    const auto found = by_name.find(t.name);
    if (!t.tensor.defined() || found == by_name.end()) continue;  // copy_state() says what is wrong
    const StateSlice& slice = *found->second;
    PINION_REQUIRE(checkpoint, t.tensor.shape() == slice.shape, name_, ": tensor ", t.name,
                   " should have shape ", slice.shape, ", got ", t.tensor.shape());
    t.tensor =
        t.tensor.alias({t.tensor.numel()}).rows(slice.offset, slice.offset + slice.values.numel());
  }
  take_state(live, slices);
}

void Optimizer::load_slices(const ReadSlice& read) {
  const std::vector<StateSlice> live = state_slices();
  std::vector<nn::NamedTensor> slices, numbers;
  for (const StateSlice& slice : live) {
    const Tensor given = read(slice);
    PINION_REQUIRE(checkpoint, given.defined() && given.numel() == slice.values.numel(), name_,
                   ": expected ", slice.values.numel(), " elements of ", slice.name);
    slices.push_back({slice.name, given.alias({given.numel()})});
    if (slice.shape.rank() == 0) numbers.push_back({slice.name, given.alias({})});
  }
  check_numbers(numbers);
  take_state(live, slices);
}

// Copies into the live slices, and the numbers among them to where they are used.
void Optimizer::take_state(const std::vector<StateSlice>& live,
                           const std::vector<nn::NamedTensor>& slices) {
  std::vector<nn::NamedTensor> into;
  for (const StateSlice& slice : live) into.push_back({slice.name, slice.values});
  nn::copy_state(name_, into, slices);
  size_t at = 0;  // walks `live` in the order in which state_slices() made it
  for (Group& group : groups_)
    for (Arena& arena : group.arenas)
      for (size_t i = 0; i < arena.items().size(); ++i) {
        at += group.states;
        arena.set_steps(i, live[at++].values.view().as<int64_t>()[0]);
      }
  for (Group& group : groups_) {
    group.lr = live[at++].values.item();
    group.weight_decay = live[at++].values.item();
  }
  if (is_capturable()) make_capturable();
}

void Optimizer::set_sharding(std::shared_ptr<Sharding> sharding) {
  PINION_CHECK(!is_capturable() && !is_sharded() && pending_scale_ == 1, name_,
               ": expected an optimizer to shard that is neither capturable nor sharded already, "
               "nor between clipping and its step");
  sharding_ = std::move(sharding);
}

}  // namespace pinion::optim
