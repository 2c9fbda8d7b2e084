// SPDX-License-Identifier: Apache-2.0
// The step of a reducer: gradients become ready, buckets go out in order, finish() settles.
#include "pinion/dist/parallel/reducer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pinion/dist/parallel/digest.h"
#include "pinion/dist/parallel/reducer_state.h"
#include "pinion/kernels/kernels.h"

namespace pinion::dist {
namespace {

// Everyone's `mine`, by rank.
template <class T>
std::vector<T> gather_all(ProcessGroup& group, const std::vector<T>& mine, Device device) {
  const auto n = static_cast<int64_t>(mine.size());
  Tensor all({n * group.size()}, dtype_of<T>, device);
  group.all_gather(all, Tensor::of(mine, {n}).to(device)).wait();
  return all.values<T>();
}

}  // namespace

Reducer::Reducer(std::vector<optim::Arena*> arenas, std::shared_ptr<ProcessGroup> group,
                 const ReducerOptions& options)
    : arenas_(std::move(arenas)),
      group_(std::move(group)),
      options_(options),
      hook_(options.hook ? options.hook : std::shared_ptr<CommHook>(all_reduce_hook())),
      self_(std::make_shared<Reducer*>(this)) {
  PINION_CHECK(group_, "reducer: expected a process group, got none");
  PINION_CHECK(!arenas_.empty(), "reducer: expected the arenas of an optimizer, got none");
  for (const optim::Arena* arena : arenas_)
    PINION_CHECK(arena->device() == arenas_[0]->device(), "reducer: expected one device, got ",
                 arenas_[0]->device().name(), " and ", arena->device().name());
  verify_ = options_.verify == Verify::digest ||
            (options_.verify == Verify::automatic && arenas_[0]->device() == Device{});
  PINION_CHECK(!verify_ || arenas_[0]->device() == Device{},
               "reducer: digests are taken on CPUs only");
  compare_plans();
  make_buckets();
  if (group_->size() > 1) hook_->prepare(buckets_, *group_);
  for (size_t i = 0; i < entries_.size(); ++i)
    entries_[i].param.on_grad_ready([self = self_, i](const Tensor&) {
      if (*self) (*self)->ready(i);
    });
  reset();
}

Reducer::~Reducer() { *self_ = nullptr; }

std::span<const Bucket> Reducer::buckets() const { return buckets_; }

// Every other rank learns why; none waits for this one.
void Reducer::give_up(ErrorKind kind, const std::string& text) {
  group_->abort(text);
  fail(kind, {text});
}

void Reducer::reset() {
  for (Entry& e : entries_) {
    e.fired = 0;
    if (first_step_ || !options_.static_graph) e.expected = 1;
  }
  for (State& s : states_) s.pending = 0, s.launched = false;
  for (const Entry& e : entries_) states_[e.bucket].pending += e.expected > 0;
  next_ = 0;
  begun_ = agreed_ = accumulated_ = missing_ = false;
  weight_ = 0;
  source_ = 0;
  // With one rank a step whose gradients all come has nothing to send and nothing to divide by.
  alone_ = group_->size() == 1 && !first_step_ && !joining_ && !options_.weighted &&
           !options_.static_graph;
}

// The end of such a step; false when it is not one.
bool Reducer::finish_alone() {
  if (!alone_ || joining_ || !frozen_.empty()) return false;
  for (const Entry& e : entries_)
    if (e.fired != 1) return false;
  for (Entry& e : entries_) e.fired = 0;
  accumulated_ = false;
  return true;
}

void Reducer::ready(size_t entry) {
  Entry& e = entries_[entry];
  if (!synchronises()) {
    accumulated_ = true;
    return;
  }
  ++e.fired;
  if (alone_ && e.fired == 1) return;
  State& bucket = states_[e.bucket];
  const bool counting = options_.static_graph && first_step_;
  if (e.expected == 0)
    give_up(ErrorKind::internal, cat({"reducer: ", e.name, " has a gradient, but had none in the ",
                                      "first step of a static graph"}));
  if (bucket.launched || (!counting && e.fired > e.expected))
    give_up(ErrorKind::internal,
            cat({"reducer: the gradient of ", e.name,
                 " was written again in one synchronised step; call finish() after backward(), and "
                 "run all but the last backward() of a step under no_sync()"}));
  if (!agreed_) begin_step(), agree_on_total();
  if (counting ? e.fired > 1 : e.fired < e.expected) return;
  if (--bucket.pending > 0) return;
  if (first_step_) seen_.push_back(e.bucket);
  if (options_.overlap && !counting) launch_ready();
}

void Reducer::launch_ready() {
  while (next_ < order_.size() && states_[order_[next_]].pending == 0) launch(order_[next_++]);
}

void Reducer::launch(size_t index) {
  State& s = states_[index];
  s.launched = true;
  for (size_t i = s.first_entry; i < s.end_entry; ++i)
    if (entries_[i].fired == 0 && !entries_[i].param.grad().defined()) {  // left by an earlier step
      missing_ = true;
      Tensor slot = entries_[i].slot;
      on(slot.device(), [&](auto& ctx) { kernels::fill(ctx, slot.mut(), 0); });
    }
  const bool weighs = options_.weighted || joining_;
  if (weighs && total_ != 1) {
    Tensor grads = buckets_[index].grads;
    on(grads.device(), [&](auto& ctx) { kernels::affine(ctx, grads, 1 / total_, 0, grads.mut()); });
  }
  if (group_->size() > 1)
    hook_->start(buckets_[index], weighs ? ReduceOp::sum : ReduceOp::mean, *group_);
}

void Reducer::add_weight(double weight) {
  PINION_CHECK(options_.weighted, "reducer: expected the option `weighted` for add_weight()");
  PINION_CHECK(std::isfinite(weight) && weight >= 0, "reducer: expected a weight >= 0, got ",
               weight);
  if (!accumulated_)  // they would be divided by this step's weights too
    for (const Entry& e : entries_)
      PINION_CHECK(!e.param.grad().defined(),
                   "reducer: expected zero_grad() between weighted steps, but ", e.name,
                   " has a gradient");
  weight_ += weight;
}

// Who has a batch, when some may have none.
void Reducer::count_active(bool has_batch) {
  begun_ = true;
  const std::vector<double> all =
      gather_all<double>(*group_, {has_batch ? 1.0 : 0.0}, arenas_[0]->device());
  active_ = static_cast<int>(std::count(all.begin(), all.end(), 1.0));
  source_ = static_cast<int>(std::find(all.begin(), all.end(), 1.0) - all.begin());
}

int Reducer::begin_step() {
  if (begun_ || !synchronises()) return source_;
  if (joining_)
    count_active(true);
  else
    begun_ = true;
  return source_;
}

// What the sum over ranks is to be divided by. Everybody adds in the order of ranks.
void Reducer::agree_on_total() {
  if (std::exchange(agreed_, true)) return;
  if (options_.weighted) {
    const std::vector<double> all = gather_all<double>(*group_, {weight_}, arenas_[0]->device());
    total_ = std::accumulate(all.begin(), all.end(), 0.0);
    PINION_REQUIRE(data, total_ > 0, "reducer: expected a micro-batch of some weight on some rank,",
                   " got none in this step");
  } else {
    total_ = joining_ ? active_ : group_->size();
  }
}

void Reducer::finish() {
  if (!synchronises() || finish_alone()) return;
  begin_step();
  agree_on_total();
  check_gradients();
  reduce_all();
}

bool Reducer::shadow(const std::function<void(int)>& collective) {
  PINION_CHECK(joining_, "reducer: expected begin_join() before shadow()");
  PINION_CHECK(!begun_, "reducer: expected finish() after backward() before shadow()");
  count_active(accumulated_);
  if (active_ == 0) return reset(), false;
  if (collective) collective(source_);
  agree_on_total();
  reduce_all();
  return true;
}

void Reducer::check_gradients() {
  const bool counted = options_.static_graph && !first_step_;
  std::vector<const std::string*> names;
  for (const Entry& e : entries_) {
    if (e.fired == e.expected) continue;
    if (counted || (options_.unused == Unused::error && e.fired == 0 && !e.param.grad().defined()))
      names.push_back(&e.name);
  }
  for (const nn::NamedTensor& p : frozen_)
    if (p.tensor.grad().defined())
      give_up(ErrorKind::internal,
              cat({"reducer: ", p.name, " has a gradient, but was frozen when ",
                   "the reducer was made; make a new one"}));
  if (names.empty()) return;
  constexpr size_t kShown = 8;
  std::string list;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i)
    list += (i > 0 ? ", " : "") + *names[i];
  if (names.size() > kShown) list += cat({" and ", names.size() - kShown, " more"});
  give_up(ErrorKind::internal,
          cat({"reducer: rank ", group_->rank(), " has no gradient of this step for ", list,
               "; if not every step uses them, choose `unused` zero or detect"}));
}

void Reducer::reduce_all() {
  while (next_ < order_.size()) launch(order_[next_++]);
  const ReduceOp op = options_.weighted || joining_ ? ReduceOp::sum : ReduceOp::mean;
  if (group_->size() > 1)
    for (const size_t index : order_) {
      hook_->finish(buckets_[index], op, *group_);
      (void)Tensor(buckets_[index].grads).mut();  // others may have written it: a new version
      if (verify_) states_[index].digest = digest_of(buckets_[index].grads);  // still in the cache
    }
  if (group_->size() > 1 || missing_) settle();
  if (first_step_) adopt_order();
  first_step_ = false;
  reset();
}

// Compares what the ranks hold now, and says which parameters have a gradient.
void Reducer::settle() {
  // A rank that found nothing missing takes part all the same: others may have.
  const bool detect = options_.unused == Unused::detect;
  const size_t bits = detect ? (entries_.size() + 63) / 64 : 0;
  std::vector<uint64_t> mine(bits, 0), all;
  for (size_t i = 0; i < entries_.size() && detect; ++i)
    if (entries_[i].param.grad().defined()) mine[i / 64] |= uint64_t{1} << (i % 64);
  if (verify_ && group_->size() > 1)
    for (const State& s : states_) mine.push_back(s.digest);
  if (!mine.empty() && group_->size() > 1) {
    const std::vector<int64_t> sent(mine.begin(), mine.end());
    const std::vector<int64_t> got = gather_all(*group_, sent, arenas_[0]->device());
    all.assign(got.begin(), got.end());
    if (verify_) compare_results(all, bits);
  } else {
    all = mine;
  }
  if (!missing_) return;
  const size_t words = all.size() / static_cast<size_t>(group_->size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    bool used = !detect;
    for (size_t at = i / 64; detect && at < all.size(); at += words)
      used |= (all[at] >> (i % 64) & 1) != 0;
    if (used) entries_[i].param.set_grad(entries_[i].slot);
  }
}

void Reducer::compare_results(const std::vector<uint64_t>& all, size_t before) {
  const size_t words = before + buckets_.size();
  for (size_t b = 0; b < buckets_.size(); ++b)
    for (int r = 1; r < group_->size(); ++r) {
      if (all[static_cast<size_t>(r) * words + before + b] == all[before + b]) continue;
      const auto& items = buckets_[b].items;
      give_up(ErrorKind::desync,
              cat({"reducer: after the reduction of bucket ", b, " (", items.front().name, " to ",
                   items.back().name, ") rank ", r, " holds other bits than rank 0"}));
    }
}

// The order in which rank 0 saw buckets become ready; those that did not come last, as planned.
void Reducer::adopt_order() {
  // A rank that had no batch in the first step has learnt nothing.
  const bool learnt =
      std::any_of(entries_.begin(), entries_.end(), [](const Entry& e) { return e.fired > 0; });
  if (options_.static_graph && learnt)
    for (Entry& e : entries_) e.expected = e.fired;
  for (const size_t index : order_)
    if (std::find(seen_.begin(), seen_.end(), index) == seen_.end()) seen_.push_back(index);
  if (group_->size() > 1) {
    std::vector<int64_t> indices(seen_.begin(), seen_.end());
    const auto n = static_cast<int64_t>(indices.size());
    Tensor order = Tensor::of(indices, {n}).to(arenas_[0]->device());
    group_->broadcast(order, 0).wait();
    indices = order.values<int64_t>();
    order_.assign(indices.begin(), indices.end());
  } else {
    order_ = seen_;
  }
}

}  // namespace pinion::dist
