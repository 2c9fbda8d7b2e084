// SPDX-License-Identifier: Apache-2.0
// What Accelerator::prepare() gives for a model, an optimizer, a schedule and a loader: handles,
// cheap to copy, that are used as the objects themselves are. The objects and the Accelerator must
// outlive them.
#pragma once

#include <tuple>

#include "pinion/accel/conductor.h"
#include "pinion/accel/track/profile.h"
#include "pinion/nn/ops.h"

namespace pinion::accel {

// Calls of the model run under autocast, and what comes back in 16 bits is converted to f32.
template <class M>
class AcceleratedModel {
 public:
  AcceleratedModel(M& module, Conductor& conductor) : module_(&module), conductor_(&conductor) {}

  template <class... A>
  auto operator()(A&&... arguments) const {
    const ProfileSpan span("forward");
    conductor_->before_forward(*module_);
    const nn::Autocast autocast(conductor_->precision());
    const auto call = [&] { return (*module_)(std::forward<A>(arguments)...); };
    if (!conductor_->gathers(*module_)) return in_f32(call());
    if constexpr (std::is_same_v<decltype(call()), Tensor>)
      return in_f32(conductor_->run(*module_, call));
    else
      fail(ErrorKind::config, {"ZeRO stage 3: expected a model that gives one tensor, or units in "
                               "AcceleratorOptions::zero that do"});
  }
  M& operator*() const { return *module_; }
  M* operator->() const { return module_; }

 private:
  static Tensor in_f32(const Tensor& y) {
    const bool half = y.defined() && (y.dtype() == DType::f16 || y.dtype() == DType::bf16);
    return half ? nn::cast(y, DType::f32) : y;
  }
  template <class... T>
  static std::tuple<T...> in_f32(std::tuple<T...> y) {
    return std::apply([](auto&... each) { return std::tuple<T...>{in_f32(each)...}; }, y);
  }
  template <class T>
  static T in_f32(T y) {
    return y;
  }

  M* module_;
  Conductor* conductor_;
};

// step() and zero_grad() do nothing on micro-batches that do not end an accumulation window.
class AcceleratedOptimizer {
 public:
  AcceleratedOptimizer(Conductor::Optimizer& state, Conductor& conductor)
      : state_(&state), conductor_(&conductor) {}

  void step() const { conductor_->step(*state_); }
  void zero_grad() const { conductor_->zero_grad(*state_); }
  bool step_was_skipped() const { return state_->skipped; }  // the last one; fp16 overflowed
  optim::Optimizer& operator*() const { return *state_->optimizer; }
  optim::Optimizer* operator->() const { return state_->optimizer; }

 private:
  friend class Accelerator;
  Conductor::Optimizer* state_;
  Conductor* conductor_;
};

// step() counts optimizer updates: it does nothing when the optimizer did not step.
class AcceleratedScheduler {
 public:
  AcceleratedScheduler(optim::Scheduler& scheduler, Conductor& conductor)
      : scheduler_(&scheduler), conductor_(&conductor) {}

  void step() const { conductor_->step(*scheduler_); }
  optim::Scheduler& operator*() const { return *scheduler_; }
  optim::Scheduler* operator->() const { return scheduler_; }

 private:
  optim::Scheduler* scheduler_;
  Conductor* conductor_;
};

// Moves a batch to a device. A type of batches of one's own gets a function of this name beside it;
// without one its batches stay where the data set made them.
inline void move_batch(Batch& batch, Device device) {
  batch.x = batch.x.to(device);
  batch.y = batch.y.to(device);
}

// This rank's batches, on its device. All ranks see equally many.
template <Dataset D>
class AcceleratedLoader {
 public:
  using Batch = BatchOf<D>;

  AcceleratedLoader(DataLoader<D>& loader, Conductor& conductor)
      : loader_(&loader), conductor_(&conductor) {}

  // Knows of the loop it belongs to: until the last batch, or until the loop is left.
  class Iterator {
   public:
    explicit Iterator(const AcceleratedLoader& of)
        : feed_(&of.loader_->feed()), conductor_(of.conductor_), at_(of.loader_->begin()) {
      conductor_->enter(*feed_);
      arrived();
    }
    ~Iterator() {
      if (feed_) conductor_->leave(*feed_);
    }
    Iterator(const Iterator&) = delete;
    Iterator& operator=(const Iterator&) = delete;

    Batch& operator*() const { return *at_; }
    Batch* operator->() const { return &*at_; }
    Iterator& operator++() {
      const ProfileSpan span("next batch");
      ++at_;
      arrived();
      return *this;
    }
    bool operator==(std::default_sentinel_t end) const { return at_ == end; }

   private:
    void arrived() {
      if (at_ == std::default_sentinel) {
        conductor_->leave(*feed_);
        feed_ = nullptr;
      } else if constexpr (requires(Batch & b) { move_batch(b, Device()); }) {
        move_batch(*at_, conductor_->device());
      }
    }

    BatchFeed* feed_;
    Conductor* conductor_;
    typename DataLoader<D>::Iterator at_;
  };
  Iterator begin() const { return Iterator(*this); }
  std::default_sentinel_t end() const { return {}; }

  int64_t batches() const { return loader_->batches(); }  // of each rank in an epoch
  int64_t samples() const { return loader_->samples(); }  // of the whole data set
  // Of the batch that was handed out last: the indices of its samples, and how many of them, the
  // first ones, are in no other batch of the epoch.
  std::span<const int64_t> indices() const { return loader_->indices(); }
  int64_t real_rows() const {
    const BatchFeed& feed = loader_->feed();
    return feed.plan().of(feed.round_begin(), feed.plan().shard().rank, feed.turn()).real;
  }
  // That number as a share of the round's, all ranks together.
  double share() const {
    const ShardPlan& plan = loader_->feed().plan();
    const int64_t begin = loader_->feed().round_begin();
    return static_cast<double>(real_rows()) / static_cast<double>(plan.after(begin) - begin);
  }
  // Go to an epoch, and past its first `batches` batches.
  void set_epoch(int64_t epoch, int64_t batches = 0) const {
    const ShardPlan& plan = loader_->feed().plan();
    PINION_CHECK(batches % plan.shard().turns == 0, "set_epoch: expected a multiple of the ",
                 plan.shard().turns, " batches that a rank has of a round, got ", batches);
    const int64_t position = batches / plan.shard().turns * plan.round();
    loader_->seek(epoch, std::min(position, loader_->samples()));
  }
  DataLoader<D>& operator*() const { return *loader_; }
  DataLoader<D>* operator->() const { return loader_; }

 private:
  DataLoader<D>* loader_;
  Conductor* conductor_;
};

}  // namespace pinion::accel
