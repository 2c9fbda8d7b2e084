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

  // Opens a window of `steps` micro-batches on `ranks` ranks unless one is open.
  void open(int64_t steps, int ranks);
  // The next micro-batch of the open window; a window without one starts at the first backward.
  void next_micro_batch();
  // The weight of the micro-batch under way, given at its first backward; a later backward of it
  // must have the same. Returns the factor of the loss.
  double weigh(const Weight& weight);
  // The sum of the weights over the ranks, where only each knows its own.
  void set_everyone(double everyone) { everyone_ = everyone; }
  double mine() const { return mine_; }
  // What the averaged gradients still have to be multiplied by.
  double correction() const;
  void close() { *this = {}; }

  bool is_open() const { return steps_ > 0; }
  bool backward_done() const { return weighed_; }  // in the micro-batch under way
  int64_t micro_batches() const { return micro_batches_; }

 private:
  int64_t steps_ = 0;
  int ranks_ = 1;
  int64_t micro_batches_ = 0;
  bool weighed_ = false;
  double current_ = 0, unit_ = 0, mine_ = 0, everyone_ = 0;
};

}  // namespace pinion::accel
