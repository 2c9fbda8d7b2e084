// SPDX-License-Identifier: Apache-2.0
// The page that simple_train leaves behind: curves, settings, and how the model did.
#pragma once

#include <string>
#include <vector>

#include "pinion/accel/track/metrics.h"
#include "pinion/apps/toy/options.h"

namespace pinion::toy {

struct EpochFigures {
  double loss = 0;      // mean of the batches' means
  double accuracy = 0;  // running, from 0 to 1
};

struct RunFigures {
  std::vector<EpochFigures> epochs;
  int64_t parameters = 0;
  int64_t samples = 0;  // trained on, per epoch
  double seconds = 0;   // of training
};

// `test` is null when nothing was held out.
std::string report_html(const Options& options, const RunFigures& run,
                        const accel::ConfusionMatrix* test);

}  // namespace pinion::toy
