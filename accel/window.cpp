// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/window.h"

#include "pinion/kernels/check.h"

namespace pinion::accel {

void Window::next_micro_batch() { weighed_ = false; }

double Window::weigh(const Weight& weight) {
  PINION_CHECK(weight.mine >= 0, "backward: expected a weight >= 0, got ", weight.mine);
  if (now_.unit == 0) now_.unit = weight.unit;
  if (weighed_) {
    PINION_CHECK(weight.mine == current_,
                 "backward: expected one weight for all losses of a micro-batch, got ", current_,
                 " and ", weight.mine);
  } else {
    weighed_ = true;
    current_ = weight.mine;
    now_.mine += weight.mine;
    now_.everyone += weight.everyone;
  }
  return weight.mine / (now_.unit * static_cast<double>(now_.steps));
}

double Window::correction() const {
  // Nothing counted: the gradients are zero, and stay so.
  if (now_.everyone == 0) return 1;
  return ranks_ * now_.unit * static_cast<double>(now_.steps) / now_.everyone;
}

}  // namespace pinion::accel
