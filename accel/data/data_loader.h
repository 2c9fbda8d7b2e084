// SPDX-License-Identifier: Apache-2.0
// DataLoader: batches of a data set in a shuffled or natural order, made in the caller or ahead of
// it by worker threads, with an exact position that can be saved and restored.
//
//   accel::DataLoader loader(accel::TensorDataset(features, labels), {.batch_size = 32, .shuffle =
//   true}); for (int epoch = 0; epoch < 5; ++epoch)
//     for (auto& [x, y] : loader) …
#pragma once

#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <vector>

#include "pinion/accel/data/data_set.h"
#include "pinion/accel/data/shard.h"

namespace pinion::accel {

struct LoaderOptions {
  int64_t batch_size = 32;
  bool shuffle = false;
  bool drop_last = false;  // leave out a last batch that is smaller than the others
  int workers = 0;         // threads that make batches; 0: the caller makes them
  int prefetch = 2;        // batches a worker may be ahead of the caller
  uint64_t seed = 0;       // of the order
};

// Where a loader stands: the next batch begins at sample `consumed` of the order of `epoch`,
// counted over all ranks, so that any number of ranks may go on from there. The other two tell an
// order that cannot be the same.
struct LoaderState {
  int64_t epoch = 0;
  int64_t consumed = 0;
  uint64_t seed = 0;
  int64_t samples = 0;  // of the data set
  bool operator==(const LoaderState&) const = default;
};

// The part of a loader that does not depend on the type of its batches: position, order, workers.
// It counts batches and calls `make` to have one put into a numbered slot.
class BatchFeed {
 public:
  using Make = void (*)(void* owner, int slot, std::span<const int64_t> indices, int64_t epoch);

  BatchFeed(int64_t samples, const LoaderOptions& options, Make make, void* owner);
  ~BatchFeed();  // ends the workers; at most one batch each is made until they notice
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  static int slots(const LoaderOptions& options);  // how many the owner must have
  int64_t batches() const;                         // in a whole epoch
  // From now on the batches are those of one of several ranks; the position stays.
  void shard(const Shard& shard);
  const ShardPlan& plan() const;
  // Of the batch that was handed out last: where its round began, which of the rank's batches of
  // the round it is, and the indices of its samples.
  int64_t round_begin() const;
  int turn() const;
  std::span<const int64_t> indices() const;
  // The slot that holds the next batch, valid until the next call; -1 at the end of an epoch, where
  // the position moves to the start of the next. Rethrows what `make` threw; the position then
  // stays before that batch.
  int next();
  LoaderState state() const;
  void restore(const LoaderState& state);

 private:
  struct Crew;
  std::unique_ptr<Crew> crew_;
};

template <Dataset D>
class DataLoader {
 public:
  using Batch = BatchOf<D>;

  explicit DataLoader(D data, const LoaderOptions& options = {})
      : data_(std::move(data)),
        slots_(static_cast<size_t>(BatchFeed::slots(options))),
        feed_(data_.size(), options, &DataLoader::make, this) {}
  DataLoader(const DataLoader&) = delete;  // workers know its address
  DataLoader& operator=(const DataLoader&) = delete;

  class Iterator {
   public:
    explicit Iterator(DataLoader* loader) : loader_(loader) { ++*this; }
    Batch& operator*() const { return *batch_; }  // NOLINT: null at the end only
    Batch* operator->() const { return batch_; }
    Iterator& operator++() {
      const int slot = loader_->feed_.next();
      batch_ = slot < 0 ? nullptr : &loader_->slots_[static_cast<size_t>(slot)];
      return *this;
    }
    bool operator==(std::default_sentinel_t) const { return batch_ == nullptr; }

   private:
    DataLoader* loader_;
    Batch* batch_ = nullptr;
  };

  // A loop runs from the loader's position to the end of the epoch; the next one is the next epoch.
  // A loop that is left in the middle is continued by the next: call seek() to start over. A batch
  // is valid until the following one.
  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const { return {}; }

  const D& data() const { return data_; }
  int64_t samples() const { return data_.size(); }
  int64_t batches() const { return feed_.batches(); }  // in a whole epoch
  // The indices of the samples of the batch that was handed out last.
  std::span<const int64_t> indices() const { return feed_.indices(); }
  // What does not depend on the type of batches; Accelerator::prepare() shards it among ranks.
  BatchFeed& feed() { return feed_; }

  // After a batch was handed out, its samples count as consumed. restore() of a state from another
  // loader with the same data and seed gives the batches that were still to come there.
  LoaderState state() const { return feed_.state(); }
  void restore(const LoaderState& state) { feed_.restore(state); }
  void seek(int64_t epoch, int64_t consumed = 0) {
    LoaderState to = state();
    to.epoch = epoch, to.consumed = consumed;
    restore(to);
  }

 private:
  static void make(void* self, int slot, std::span<const int64_t> indices, int64_t epoch) {
    auto* loader = static_cast<DataLoader*>(self);
    Batch& batch = loader->slots_[static_cast<size_t>(slot)];
    batch = Batch();  // its memory is free again before the new one asks for some
    if constexpr (EpochDataset<D>)
      batch = loader->data_.get(indices, epoch);
    else
      batch = loader->data_.get(indices);
  }

  D data_;
  std::vector<Batch> slots_;
  BatchFeed feed_;  // last, so that its workers end before what they write to
};

}  // namespace pinion::accel
