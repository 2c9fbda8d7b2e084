// SPDX-License-Identifier: Apache-2.0
// SyncBatchNorm: batch normalisation by the statistics of all ranks' images together.
#pragma once

#include <memory>

#include "pinion/dist/process_group.h"
#include "pinion/nn/layers_image.h"

namespace pinion::dist {

// From now on every BatchNorm2d of the module, itself included, is such a one in training mode: one
// all-reduce of 2 C + 1 numbers in forward and one of 2 C in backward. Ranks may have different
// numbers of images, also none. Returns how many there are. As PyTorch's
// SyncBatchNorm.convert_sync_batchnorm; names and weights stay as they are.
int convert_sync_batchnorm(nn::Module& module, std::shared_ptr<ProcessGroup> group);
bool has_sync_batchnorm(nn::Module& module);

// A BatchNorm2d that is born this way.
struct SyncBatchNorm2d : nn::BatchNorm2d {
  SyncBatchNorm2d(int64_t channels, std::shared_ptr<ProcessGroup> group, double eps = 1e-5,
                  double momentum = 0.1);
};

}  // namespace pinion::dist
