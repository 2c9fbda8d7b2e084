// SPDX-License-Identifier: Apache-2.0
// Gradients between backward() and the step: a segment's are reduced to the ranks' pieces as soon
// as all of them are there, in the order that all ranks share; finish_gradients() does the rest.
#include <algorithm>

#include "pinion/dist/zero/impl.h"
#include "pinion/dist/zero/norm.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/contents.h"

namespace pinion::dist {

namespace {

void zero(Tensor t) {
  on(t.device(), [&](auto& ctx) { kernels::fill(ctx, t.mut(), 0); });
}

}  // namespace

// Ranks that go on would wait for this one.
void Zero::Impl::give_up(const std::string& text) const {
  group_.abort(text);
  fail(ErrorKind::internal, {text});
}

void Zero::Impl::arrive(size_t index) {
  Item& item = items_[index];
  Segment& s = segments_[item.segment];
  if (s.launched)
    give_up(cat({"ZeRO: a gradient of ", item.arena->items()[item.index].name,
                 " came after its sum over the ranks had begun; between two backward() call ",
                 stage() == 1 ? "set_sync(false) before the first" : "synchronize()",
                 ", and zero_grad() after each step"}));
  if (sums_ == Sums::complete) sums_ = Sums::open;
  if (!sync() && stage() == 1) return;
  if (stage() > 1) collect(item, s);
  if (!item.arrived) item.arrived = true, ++s.ready;
  if (stage() < 3) advance(false);
}

// Where the segment's gradients gather.
void Zero::Impl::open_block(Segment& s) {
  if (s.grads.defined()) return;
  const MemoryTagScope tag(MemoryTag::gradients);
  s.grads = Tensor::zeros({s.size}, s.arena->dtype(), s.arena->device());
}

// Moves a gradient into the segment's block, unless it is there already or is as good as the block.
void Zero::Impl::collect(Item& item, Segment& s) {
  const Tensor from = item.param.grad();
  if (!s.grads.defined() && from.numel() == s.size) {
    s.grads = from.alias({s.size});
  } else {
    open_block(s);
    Tensor to = place(item, s.grads);
    if (item.arrived)
      on(to.device(), [&](auto& ctx) { kernels::add(ctx, to, from, to.mut()); });
    else if (to.view().data != from.view().data)
      to.copy_(from);
  }
  drop_grad_slot(item.param);
}

// Starts the reductions whose turn it is: those that are complete, or all. Segments that are frozen
// do not wait for gradients. Ranks need not find the same gradients at the same time, so at stage
// 3, where they call the group for units as well, before_backward() says when.
void Zero::Impl::advance(bool all) {
  for (; next_ < order_.size(); ++next_) {
    Segment& s = segments_[order_[next_]];
    if (s.expected == 0 || s.launched) continue;
    if (!all && s.ready < s.expected) return;
    launch(s);
  }
}

void Zero::Impl::launch(Segment& s) {
  if (stage() == 1) {
    for (size_t i = s.first; i < s.end; ++i)
      if (!items_[i].param.grad().defined()) zero(place(items_[i], s.grads));
  } else {
    open_block(s);
    for (size_t i = s.first; i < s.end; ++i)
      if (items_[i].hooked) drop_grad_slot(items_[i].param);  // of one that got no gradient
  }
  s.launched = true;
  if (!reaches_) reduce(s);  // else the step may do it by itself
}

void Zero::Impl::reduce(Segment& s) {
  if (in_flight_) settle(*in_flight_);  // one at a time bounds the memory
  Tensor out = piece_of(s).grads;
  if (s.summed) {
    const MemoryTagScope tag(MemoryTag::gradients);
    out = s.addend = Tensor::like(out);
  }
  s.reduction = group_.reduce_scatter(out, s.grads, options_.reduce);
  in_flight_ = &s;
  if (!works_by_itself() || s.reduction.done()) settle(s);
}

void Zero::Impl::settle(Segment& s) {
  in_flight_ = nullptr;
  s.reduction.wait();
  if (s.addend.defined()) {
    Tensor& sum = piece_of(s).grads;
    on(sum.device(), [&](auto& ctx) { kernels::add(ctx, sum, s.addend, sum.mut()); });
    s.addend = {};
  } else {
    (void)piece_of(s).grads.mut();  // the group may have written it unseen
  }
  s.summed = true;
  if (stage() > 1) s.grads = {};
}

void Zero::Impl::synchronize() {
  if (stage() > 1 || sync()) reduce_all();
}

void Zero::Impl::keep_sums() {
  PINION_CHECK(stage() > 1, "ZeRO: expected stage 2 or 3 to keep sums of gradients, got ", stage());
  for (Segment& s : segments_) s.summed = s.size > 0;
  sums_ = Sums::open;
}

void Zero::Impl::finish_gradients() {
  if (sums_ == Sums::complete) return;
  check_reached();
  reduce_all();
}

// At stage 3 the ranks gather units as backward() passes them: one whose loss has nothing to do
// with what it computed would leave the others waiting. (After another model's backward(), which
// synchronize() may follow, it is in order.)
void Zero::Impl::check_reached() const {
  const bool called =
      std::any_of(units_.begin(), units_.end(), [](const Unit& unit) { return unit.pending > 0; });
  const bool reached =
      std::any_of(items_.begin(), items_.end(), [](const Item& item) { return item.arrived; });
  if (called && !reached)
    give_up(cat({"ZeRO: rank ", group_.rank(), " called units, but backward() reached none of",
                 " them; stage 3 expects the loss of every rank to depend on them (times 0 will",
                 " do), or NoGrad around calls that are not trained on"}));
}

void Zero::Impl::reduce_all() {
  close_gradients();
  for (const size_t i : order_)
    if (Segment& s = segments_[i]; s.launched && !s.summed) reduce(s);
  sums_ = Sums::complete;
}

// No more gradients come: all segments are launched, and all ranks know what has gradients.
void Zero::Impl::close_gradients() {
  advance(true);
  if (in_flight_) settle(*in_flight_);
  for (const Item& item : items_)
    if (!item.hooked && item.param.grad().defined())
      give_up(cat({"ZeRO: ", item.arena->items()[item.index].name,
                   " has a gradient, but was frozen when Zero was made"}));
  share_reached();
  for (Item& item : items_) item.arrived = false;
  for (Segment& s : segments_) {
    s.ready = 0;
    if (stage() > 1) s.launched = false;
  }
  release_all();
  next_ = 0;
  last_unit_ = -1;
  for (Unit& unit : units_) unit.began = -1, unit.pending = 0;
}

// A parameter is updated, and its step counted, everywhere if any rank has a gradient of it.
void Zero::Impl::share_reached() {
  std::vector<float> mine;
  for (const Item& item : items_)
    mine.push_back(item.arrived || item.param.grad().defined() ? 1.0f : 0.0f);
  Tensor sum = Tensor::of(mine, {static_cast<int64_t>(mine.size())});
  sum = sum.to(items_[0].arena->device());
  group_.all_reduce(sum).wait();
  const std::vector<float> found = sum.values<float>();
  for (size_t i = 0; i < items_.size(); ++i)
    if (found[i] > 0) items_[i].arena->set_reached(items_[i].index, true);
}

optim::GradStats Zero::Impl::measure() {
  NormSum sum(group_.rank(), group_.size());
  for (Segment& s : segments_) sum.add(piece_of(s).grads);
  Tensor numbers = Tensor::of(sum.numbers(), {static_cast<int64_t>(sum.numbers().size())});
  numbers = numbers.to(segments_[0].arena->device());
  group_.all_reduce(numbers).wait();
  return sum.total(numbers.values<double>());
}

void Zero::Impl::zero_grad() {
  // Ranks may have started unequally many reductions.
  if (sums_ == Sums::open && (stage() > 1 || sync())) reduce_all();
  for (Segment& s : segments_) s.launched = s.summed = false;
  for (Item& item : items_) item.arena->set_reached(item.index, false);
  next_ = 0;
  sums_ = Sums::open;
}

}  // namespace pinion::dist
