// SPDX-License-Identifier: Apache-2.0
// Window: the micro-batches whose gradients make one optimizer update, and what each counts for.
//
// The update is that of one big batch: with micro-batch i of rank r of weight w (its samples, say)
// and gradient g of its mean loss, the gradient is  sum_ri w_ri g_ri / sum_ri w_ri.  Backward runs
// before the last weights are known, so a loss is multiplied by w / (unit steps), which is 1/steps
// for a full batch, ranks are averaged, and the rest is one number, correction(): 1 unless the
// window is cut short or the weights differ.
#pragma once

#include <cstdint>

namespace pinion::accel {

class Window {
 public:
  struct Weight {
    double mine = 1;      // of this rank's micro-batch
    double everyone = 1;  // summed over the ranks; only used when it is known to all
    double unit = 1;      // of a full micro-batch: equal on every rank, and within a window
  };

  explicit Window(int ranks) : ranks_(ranks) {}

  // Opens a window of `steps` micro-batches.
  void open(int64_t steps) { close(), now_.steps = steps; }
  // The next micro-batch of the open window; a window without one starts at the first backward.
  void next_micro_batch();
  // The weight of the micro-batch under way, given at its first backward; a later backward of it
  // must have the same. Returns the factor of the loss.
  double weigh(const Weight& weight);
  // The sum of the weights over the ranks, where only each knows its own.
  void set_everyone(double everyone) { now_.everyone = everyone; }
  void add_everyone(double everyone) { now_.everyone += everyone; }
  double mine() const { return now_.mine; }
  // What the averaged gradients still have to be multiplied by.
  double correction() const;
  void close() { *this = Window(ranks_); }

  bool is_open() const { return now_.steps > 0; }
  bool backward_done() const { return weighed_; }  // in the micro-batch under way

  // Between micro-batches this is all there is to save.
  struct State {
    int64_t steps = 0;              // 0: no window is open
    double unit = 0;                // 0: no micro-batch was weighed yet
    double mine = 0, everyone = 0;  // sums of weights so far
  };
  const State& state() const { return now_; }
  void restore(const State& state) { close(), now_ = state; }

 private:
  State now_;
  int ranks_ = 1;
  bool weighed_ = false;
  double current_ = 0;  // the weight of the micro-batch under way
};

}  // namespace pinion::accel
