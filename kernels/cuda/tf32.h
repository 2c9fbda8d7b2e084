// SPDX-License-Identifier: Apache-2.0
// Whether f32 operands may be rounded to TF32 (10 bits behind the leading one, sums in f32), which
// tensor cores multiply several times faster.
#pragma once

namespace pinion::kernels::cuda {

// Of the whole process; both are off unless set, so that f32 means f32. Read when an operation is
// launched.
struct Tf32 {
  bool matmul = false, conv = false;
};
Tf32 tf32();
void set_tf32(Tf32 allowed);

}  // namespace pinion::kernels::cuda
