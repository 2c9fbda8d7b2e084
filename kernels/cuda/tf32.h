// SPDX-License-Identifier: Apache-2.0
// Whether f32 operands may be rounded to TF32 (10 bits behind the leading one, sums in f32), which
// tensor cores multiply several times faster.
#pragma once

namespace pinion::kernels::cuda {

// Of the whole process, as torch.backends.cuda.matmul.allow_tf32 and
// torch.backends.cudnn.allow_tf32 are in PyTorch; both are off unless set here or by
// PINION_ALLOW_TF32, so that f32 means f32. Read when an operation is launched.
struct Tf32 {
  bool matmul = false, conv = false;
};
Tf32 tf32();
void set_tf32(Tf32 wanted);
// What PINION_ALLOW_TF32 says: 0, 1, matmul, conv or "matmul,conv"; null is 0.
Tf32 tf32_of(const char* text);

}  // namespace pinion::kernels::cuda
