// SPDX-License-Identifier: Apache-2.0
// Stage 3: the parameters of a unit are there while its forward or backward pass runs, and as
// pieces of all ranks otherwise.
#include <algorithm>

#include "pinion/dist/zero/impl.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/contents.h"

namespace pinion::dist {

void Zero::Impl::start_gather(Unit& unit) {
  for (const size_t i : unit.segments) {
    Segment& s = segments_[i];
    if (s.params.defined()) continue;
    {
      const MemoryTagScope tag(MemoryTag::parameters);
      s.params = Tensor({s.size}, s.arena->dtype(), s.arena->device());
    }
    s.gathering = group_.all_gather(s.params, piece_of(s).params);
  }
}

void Zero::Impl::gather(int unit) {
  Unit& u = units_[static_cast<size_t>(unit)];
  start_gather(u);
  for (const size_t i : u.segments) {
    Segment& s = segments_[i];
    if (s.in_place) continue;
    s.gathering.wait();
    for (size_t k = s.first; k < s.end; ++k)
      take_contents(items_[k].param, place(items_[k], s.params));
    s.in_place = true;
  }
}

void Zero::Impl::prefetch(int unit) {
  if (options_.prefetch && works_by_itself() && unit >= 0)
    start_gather(units_[static_cast<size_t>(unit)]);
}

void Zero::Impl::release(int unit) {
  if (whole_) return;
  for (const size_t i : units_[static_cast<size_t>(unit)].segments) {
    Segment& s = segments_[i];
    s.gathering.wait();
    for (size_t k = s.first; k < s.end; ++k) drop_contents(items_[k].param);
    s.params = {};
    s.in_place = false;
  }
}

void Zero::Impl::release_all() {
  for (size_t u = 0; u < units_.size(); ++u)
    for (const size_t i : units_[u].segments)
      if (segments_[i].params.defined()) release(static_cast<int>(u));
}

// The backward pass of a call is over: unless there are more, so are the unit's gradients.
void Zero::Impl::end_backward(Unit& unit) {
  release(static_cast<int>(&unit - units_.data()));
  unit.began = -1;
  if (--unit.pending > 0) return;
  for (const size_t i : unit.segments)
    if (Segment& s = segments_[i]; s.expected > 0 && !s.launched) launch(s);
}

// What backward() writes next is written where it is reduced.
void Zero::Impl::expect_gradients(int unit) {
  for (const size_t i : units_[static_cast<size_t>(unit)].segments) {
    Segment& s = segments_[i];
    if (s.expected == 0 || s.launched || s.grads.defined()) continue;
    open_block(s);
    for (size_t k = s.first; k < s.end; ++k)
      if (items_[k].hooked) items_[k].param.set_grad_slot(place(items_[k], s.grads));
  }
}

// backward() passes calls of run() in the opposite order, so those that began after this one had
// ended are over. Every rank decides alike, whichever parameters its graph has met.
void Zero::Impl::before_backward(int unit, int64_t began, int64_t ended) {
  for (Unit& u : units_)
    if (u.began > ended) end_backward(u);
  gather(unit);
  expect_gradients(unit);
  units_[static_cast<size_t>(unit)].began = began;
  prefetch(units_[static_cast<size_t>(unit)].previous);
}

Tensor Zero::Impl::run(nn::Module& module, const std::function<Tensor()>& f) {
  if (stage() < 3) return f();
  const auto found = std::find_if(units_.begin(), units_.end(),
                                  [&](const Unit& u) { return u.module == &module; });
  PINION_CHECK(found != units_.end(), "ZeRO: run() expected one of ZeroOptions::units");
  if (found->segments.empty()) return f();
  const int unit = static_cast<int>(found - units_.begin());
  if (last_unit_ >= 0 && last_unit_ != unit) {
    units_[static_cast<size_t>(last_unit_)].next = unit;
    found->previous = last_unit_;
  }
  last_unit_ = unit;
  const int64_t began = ++clock_;
  gather(unit);
  prefetch(found->next);
  struct Release {
    Impl& impl;
    int unit;
    ~Release() { impl.release(unit); }
  } const at_end{*this, unit};
  const Tensor y = f();
  const int64_t ended = ++clock_;
  if (y.requires_grad() && grad_enabled()) ++found->pending;
  return record("zero_unit", y.alias(y.shape()), {&y},
                [self = shared_from_this(), unit, began, ended](const Tensor& dy) -> Tensors {
                  self->before_backward(unit, began, ended);
                  return {dy};
                });
}

void Zero::Impl::begin_whole() {
  PINION_CHECK(!whole_, "ZeRO: expected one Zero::Whole at a time");
  for (size_t u = 0; u < units_.size(); ++u) gather(static_cast<int>(u));
  whole_ = true;
}

void Zero::Impl::end_whole() {
  whole_ = false;
  for (Segment& s : segments_)
    if (s.unit >= 0) piece_of(s).params.copy_(mine(s, s.params));
  release_all();
}

}  // namespace pinion::dist
