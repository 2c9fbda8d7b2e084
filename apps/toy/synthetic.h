// SPDX-License-Identifier: Apache-2.0
// The toy problem: normal random features, and a class that says whether the first two add up to
// more than zero, wrong for an exact share of the samples.
#pragma once

#include <cstdint>

#include "pinion/accel/data/data_set.h"

namespace pinion::toy {

struct SyntheticOptions {
  int64_t samples = 1000;
  int64_t features = 10;  // at least 2
  double noise = 0.1;     // share of labels that are flipped: exactly round(noise samples) of them
  uint64_t seed = 0;
};

// features [samples, features] f32, labels [samples] i64 of 0 or 1
accel::TensorDataset make_synthetic(const SyntheticOptions& options);

}  // namespace pinion::toy
