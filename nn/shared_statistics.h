// SPDX-License-Identifier: Apache-2.0
// Batch-norm statistics of a batch whose parts lie in several places. Internal to ops_image.cpp.
#pragma once

#include "pinion/nn/ops_image.h"

namespace pinion::nn {

struct SharedStatistics {
  Tensor mean, var;         // [groups,C], of the whole batch; var is biased. f32, or f64 over f64
  Tensor share;             // [1], this part's elements of a channel over everyone's
  Tensor mean64, unbiased;  // [groups C], f64: what running statistics follow
};

// With one sum over all parts, of 2 groups C + 1 numbers in f64. x may be empty. Counts the batch.
SharedStatistics share_statistics(const Tensor& x, const kernels::BatchNorm& norm,
                                  const BatchNormOptions& options);

// running += momentum (batch - running), group after group, for tensors of any floating type, if
// they are defined.
void follow_statistics(const SharedStatistics& batch, double momentum, Tensor running_mean,
                       Tensor running_var);

}  // namespace pinion::nn
