// SPDX-License-Identifier: Apache-2.0
// What a checkpoint keeps of an optimizer that ZeRO has sharded: each rank's slices of its state,
// and the sums of gradients in the middle of an accumulation.
#pragma once

#include "pinion/accel/checkpoint/state.h"
#include "pinion/dist/zero/zero.h"

namespace pinion::accel {

// Placement::sharded: any number of ranks reads it. An optimizer that is not sharded, on one rank,
// is one slice.
class OptimizerSlicesPart final : public Checkpointable {
 public:
  explicit OptimizerSlicesPart(optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  optim::Optimizer& optimizer_;
};

// Stages 2 and 3 (at stage 1 parameters have gradients of their own: GradientsPart). Per rank,
// nothing between updates.
class GradientSumsPart final : public Checkpointable {
 public:
  GradientSumsPart(optim::Optimizer& optimizer, dist::Zero& zero)
      : optimizer_(optimizer), zero_(zero) {}
  State state() override;
  void load_state(const State& state) override;

 private:
  optim::Optimizer& optimizer_;
  dist::Zero& zero_;
};

}  // namespace pinion::accel
