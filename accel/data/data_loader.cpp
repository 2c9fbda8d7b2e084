// SPDX-License-Identifier: Apache-2.0
// The position of a loader and the worker threads that make batches ahead of it.
#include "pinion/accel/data/data_loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "pinion/accel/data/sampler.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

namespace {

constexpr int kMaxWorkers = 1024;
constexpr int kMaxPrefetch = 1024;

int checked_slots(const LoaderOptions& o) {
  PINION_CHECK(o.batch_size >= 1, "DataLoader: batch_size must be at least 1, got ", o.batch_size);
  PINION_CHECK(o.workers >= 0 && o.workers <= kMaxWorkers, "DataLoader: workers must lie in [0, ",
               kMaxWorkers, "], got ", o.workers);
  PINION_CHECK(o.prefetch >= 1 && o.prefetch <= kMaxPrefetch,
               "DataLoader: prefetch must lie in [1, ", kMaxPrefetch, "], got ", o.prefetch);
  // One more than may be ahead: the batch that the caller is working on.
  return o.workers == 0 ? 1 : o.workers * o.prefetch + 1;
}

}  // namespace

// Batches of an epoch are numbered from 0 at the position where making them began; batch b lies in
// slot b % slots. A worker claims the next number, takes its indices, makes it without the lock and
// marks the slot ready. It never claims a slot whose batch the caller has not yet given back.
struct BatchFeed::Crew {
  Crew(int64_t samples, const LoaderOptions& o, Make make_batch, void* loader)
      : options(o),
        slot_count(checked_slots(o)),
        make(make_batch),
        owner(loader),
        order(samples, o.shuffle, o.seed),
        plan(samples, o.batch_size, o.drop_last, {}),
        slot(static_cast<size_t>(slot_count)) {}

  ~Crew() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work_ready.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  // Where a batch of this rank is: the beginning of its round, and which of its batches there.
  struct Place {
    int64_t begin = 0;
    int turn = 0;
  };
  Place after(const Place& p) const {
    if (p.turn + 1 < plan.shard().turns) return {p.begin, p.turn + 1};
    return {plan.after(p.begin), 0};
  }

  // The samples of a batch. Where the epoch is continued from its beginning, they do not lie side
  // by side and are put into the slot.
  std::span<const int64_t> indices_of(const Place& place, int at) {
    const ShardBatch batch = plan.of(place.begin, plan.shard().rank, place.turn);
    const int64_t n = order.samples();
    if (batch.begin + batch.rows <= n) return order.take(batch.begin, batch.rows);
    std::vector<int64_t>& list = slot[static_cast<size_t>(at)].wrapped;
    list.clear();
    for (int64_t p = batch.begin; p < batch.begin + batch.rows; ++p)
      list.push_back(order.take(p % n, 1)[0]);
    return list;
  }

  int next_inline() {
    if (!plan.has(next.begin)) return end_epoch();
    const MemoryTagScope tag(MemoryTag::data);
    slot[0].indices = indices_of(next, 0);
    make(owner, 0, slot[0].indices, epoch);
    current = &slot[0];
    return hand_out(0);
  }

  int hand_out(int at) {
    delivered_place = next;
    next = after(next);
    return at;
  }

  int end_epoch() {
    running = false;
    order.start(++epoch);
    next = claimed = {};
    return -1;
  }

  int next_from_workers() {
    std::unique_lock lock(mutex);
    holding = false;  // the caller is done with the batch before
    if (!plan.has(next.begin)) return end_epoch();
    if (workers.empty()) start_workers();
    if (running)
      work_ready.notify_one();  // one slot became free
    else
      work_ready.notify_all();
    running = true;
    Slot& mine = slot[static_cast<size_t>(delivered % slot_count)];
    batch_ready.wait(lock, [&] { return mine.ready; });
    if (mine.error) {
      const std::exception_ptr error = mine.error;
      rewind(lock);
      std::rethrow_exception(error);
    }
    mine.ready = false;
    holding = true;
    current = &mine;
    return hand_out(static_cast<int>(delivered++ % slot_count));
  }

  void start_workers() {
    workers.reserve(static_cast<size_t>(options.workers));
    for (int i = 0; i < options.workers; ++i) workers.emplace_back([this] { work(); });
  }

  // Whether the next batch may be claimed. The slot of the batch in the caller's hands, number
  // delivered - 1, is not free yet.
  bool may_claim() const {
    return running && made - delivered < slot_count - (holding ? 1 : 0) && plan.has(claimed.begin);
  }

  void work() {
    const NoGrad no_grad;
    const MemoryTagScope tag(MemoryTag::data);
    std::unique_lock lock(mutex);
    for (;;) {
      work_ready.wait(lock, [&] { return stopping || may_claim(); });
      if (stopping) return;
      const int at = static_cast<int>(made++ % slot_count);
      const std::span<const int64_t> indices = indices_of(claimed, at);
      slot[static_cast<size_t>(at)].indices = indices;
      claimed = after(claimed);
      const int64_t epoch_of_batch = epoch;
      ++busy;
      lock.unlock();
      std::exception_ptr error;
      try {
        make(owner, at, indices, epoch_of_batch);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      --busy;
      slot[static_cast<size_t>(at)].ready = true;
      slot[static_cast<size_t>(at)].error = error;
      batch_ready.notify_one();
    }
  }

  // Throws away what was made ahead of the position.
  void rewind(std::unique_lock<std::mutex>& lock) {
    running = false;
    batch_ready.wait(lock, [&] { return busy == 0; });
    for (Slot& s : slot) s.ready = false, s.error = nullptr;
    made = delivered;
    claimed = next;
  }

  struct Slot {
    bool ready = false;
    std::exception_ptr error;
    std::span<const int64_t> indices;
    std::vector<int64_t> wrapped;
  };

  const LoaderOptions options;
  const int slot_count;
  const Make make;
  void* const owner;

  mutable std::mutex mutex;  // guards everything below when there are workers
  std::condition_variable work_ready, batch_ready;
  Order order;
  ShardPlan plan;
  int64_t epoch = 0;
  Place next;             // of the batch to hand to the caller
  Place claimed;          // of the batch for a worker to take on
  int64_t made = 0;       // number of the next batch to claim
  int64_t delivered = 0;  // number of the next batch to hand out
  bool holding = false;   // the caller works on batch delivered - 1
  bool running = false;
  bool stopping = false;
  int busy = 0;  // workers inside make()
  std::vector<Slot> slot;
  const Slot* current = nullptr;  // of the batch handed out last
  Place delivered_place;          // of that batch
  std::vector<std::thread> workers;
};

BatchFeed::BatchFeed(int64_t samples, const LoaderOptions& options, Make make, void* owner)
    : crew_(std::make_unique<Crew>(samples, options, make, owner)) {}

BatchFeed::~BatchFeed() = default;

int BatchFeed::slots(const LoaderOptions& options) { return checked_slots(options); }

int64_t BatchFeed::batches() const { return crew_->plan.rounds() * crew_->plan.shard().turns; }

void BatchFeed::shard(const Shard& shard) {
  const LoaderOptions& o = crew_->options;
  const ShardPlan plan(crew_->order.samples(), o.batch_size, o.drop_last, shard);
  std::unique_lock lock(crew_->mutex);
  crew_->rewind(lock);
  crew_->plan = plan;
}

const ShardPlan& BatchFeed::plan() const { return crew_->plan; }

int64_t BatchFeed::round_begin() const { return crew_->delivered_place.begin; }
int BatchFeed::turn() const { return crew_->delivered_place.turn; }

std::span<const int64_t> BatchFeed::indices() const {
  PINION_CHECK(crew_->current, "DataLoader: expected a batch that was handed out, got none");
  return crew_->current->indices;
}

int BatchFeed::next() {
  return crew_->options.workers == 0 ? crew_->next_inline() : crew_->next_from_workers();
}

LoaderState BatchFeed::state() const {
  const std::lock_guard lock(crew_->mutex);
  return {crew_->epoch, crew_->next.begin, crew_->options.seed, crew_->order.samples()};
}

void BatchFeed::restore(const LoaderState& state) {
  Crew& crew = *crew_;
  std::unique_lock lock(crew.mutex);
  PINION_REQUIRE(checkpoint, state.samples == crew.order.samples(),
                 "DataLoader: the position must be of a data set of ", crew.order.samples(),
                 " samples, got one of ", state.samples);
  PINION_REQUIRE(checkpoint, state.seed == crew.options.seed,
                 "DataLoader: the position must be of seed ", crew.options.seed, ", got ",
                 state.seed);
  PINION_REQUIRE(checkpoint,
                 state.epoch >= 0 && state.consumed >= 0 && state.consumed <= state.samples,
                 "DataLoader: the position must lie in an epoch of ", state.samples,
                 " samples, got sample ", state.consumed, " of epoch ", state.epoch);
  crew.rewind(lock);
  crew.epoch = state.epoch;
  crew.next = crew.claimed = {state.consumed, 0};
  crew.order.start(state.epoch);
}

}  // namespace pinion::accel
