// SPDX-License-Identifier: Apache-2.0
// The parts of a run as objects that a checkpoint can keep. Each refers to what it keeps.
#pragma once

#include <functional>
#include <utility>

#include "pinion/accel/checkpoint/state.h"
#include "pinion/accel/data/data_loader.h"
#include "pinion/accel/track/tracker.h"
#include "pinion/nn/module.h"
#include "pinion/optim/grad_scaler.h"
#include "pinion/optim/optimizer.h"
#include "pinion/optim/schedule.h"

namespace pinion::accel {

// Parameters and buffers under PyTorch's names, filters in PyTorch's order, and the counters.
class ModelPart final : public Checkpointable {
 public:
  explicit ModelPart(nn::Module& module) : module_(module) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  nn::Module& module_;
};

class OptimizerPart final : public Checkpointable {
 public:
  explicit OptimizerPart(optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  optim::Optimizer& optimizer_;
};

// Gradients that an accumulation under way has gathered so far; nothing between updates. Per rank.
class GradientsPart final : public Checkpointable {
 public:
  explicit GradientsPart(optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  optim::Optimizer& optimizer_;
};

class SchedulerPart final : public Checkpointable {
 public:
  explicit SchedulerPart(optim::Scheduler& scheduler) : scheduler_(scheduler) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  optim::Scheduler& scheduler_;
};

class ScalerPart final : public Checkpointable {
 public:
  explicit ScalerPart(optim::GradScaler& scaler) : scaler_(scaler) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  optim::GradScaler& scaler_;
};

// The seed of the process and how many streams of random numbers were handed out (nn/init.h).
class RandomPart final : public Checkpointable {
 public:
  State state() override;
  void load_state(const State& state) override;
};

// The position of a DataLoader, or of anything with state() and restore() of a LoaderState.
template <class Loader>
class LoaderPart final : public Checkpointable {
 public:
  explicit LoaderPart(Loader& loader) : loader_(loader) {}
  State state() override {
    const LoaderState s = loader_.state();
    State out;
    out.put("epoch", s.epoch);
    out.put("consumed", s.consumed);
    out.put("seed", s.seed);
    out.put("samples", s.samples);
    return out;
  }
  void load_state(const State& s) override {
    loader_.restore(
        {s.integer("epoch"), s.integer("consumed"), s.natural("seed"), s.integer("samples")});
  }

 private:
  Loader& loader_;
};

// How far a tracker has written. Null on ranks that have none.
class TrackerPart final : public Checkpointable {
 public:
  explicit TrackerPart(Tracker* tracker) : tracker_(tracker) {}
  State state() override;
  void load_state(const State& state) override;
  void start_fresh() override {
    if (tracker_) tracker_->go_back(0);
  }

 private:
  Tracker* tracker_;
};

// Anything else, by two functions.
class FunctionPart final : public Checkpointable {
 public:
  FunctionPart(std::function<State()> save, std::function<void(const State&)> load)
      : save_(std::move(save)), load_(std::move(load)) {}
  State state() override { return save_(); }
  void load_state(const State& state) override { load_(state); }

 private:
  std::function<State()> save_;
  std::function<void(const State&)> load_;
};

}  // namespace pinion::accel
