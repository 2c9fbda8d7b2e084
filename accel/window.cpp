// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/window.h"

#include "pinion/kernels/check.h"

namespace pinion::accel {

void Window::open(int64_t steps, int ranks) {
  if (is_open()) return;
  close();
  steps_ = steps, ranks_ = ranks;
}

void Window::next_micro_batch() { weighed_ = false; }

double Window::weigh(const Weight& weight) {
  PINION_CHECK(weight.mine >= 0, "backward: expected a weight >= 0, got ", weight.mine);
  if (unit_ == 0) unit_ = weight.unit;
  if (weighed_) {
    PINION_CHECK(weight.mine == current_,
                 "backward: expected one weight for all losses of a micro-batch, got ", current_,
                 " and ", weight.mine);
  } else {
    weighed_ = true;
    ++micro_batches_;
    current_ = weight.mine;
    mine_ += weight.mine;
    everyone_ += weight.everyone;
  }
  return weight.mine / (unit_ * static_cast<double>(steps_));
}

double Window::correction() const {
  // Nothing counted: the gradients are zero, and stay so.
  if (everyone_ == 0) return 1;
  return ranks_ * unit_ * static_cast<double>(steps_) / everyone_;
}

}  // namespace pinion::accel
