// SPDX-License-Identifier: Apache-2.0
// Times work on a GPU by the device's own clock: samples of several runs between two events, each
// run on another set of operands, so that none finds its operands in the L2 cache.
#pragma once

#include <vector>

#include "pinion/bench/gpu/cases.h"

namespace pinion::bench {

struct GpuTimes {
  int sets = 0;                    // of operands, in turn
  int batch = 0;                   // runs of one sample
  std::vector<double> samples_us;  // a run's share of each sample
  double host_us = 0;              // the host's time to ask for a run: the least of the samples
};

// Throws Error (device) without a device.
GpuTimes time_on_gpu(const GpuCase& c, int samples);

}  // namespace pinion::bench
