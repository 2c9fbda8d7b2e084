// SPDX-License-Identifier: Apache-2.0
// Whole training runs of small classifiers in one kernel: what nn::FusedMlp is to a step, this is
// to a run. On a GPU a run is one launch, and a sweep of models is the same launch with more
// blocks.
#pragma once

#include <vector>

#include "pinion/nn/layers.h"
#include "pinion/optim/adam.h"

namespace pinion::optim {

struct FusedRunOptions {
  int64_t epochs = 1;
  int64_t batch_size = 32;  // the last batch of an epoch has what is left
  AdamOptions adam;         // without amsgrad; its lr is what a model does not say otherwise
  bool decoupled = false;   // AdamW's weight decay
  uint64_t seed = 0;        // of the order of samples, where a model does not say otherwise
};

struct FusedEpoch {
  double loss = 0;      // mean of the batches' means
  double accuracy = 0;  // running, from 0 to 1
};

// second(relu(first(x))) is trained in place: x f32 [N, features], target i64 [N] with ids of
// classes, all on the device of the model. Equal, but for rounding, to cross_entropy, backward and
// Adam::step on the batches of every epoch, whose samples come in the order of
// kernels::Permutation. On CUDA: up to 32 features, 64 hidden units, 16 classes, and as many
// samples as shared memory holds (about 3900 of 10 features); Error (device) says what fits.
std::vector<FusedEpoch> train_fused(nn::Linear& first, nn::Linear& second, const Tensor& x,
                                    const Tensor& target, const FusedRunOptions& options);

// The same for many models of one shape, side by side: each ends with the bits that it would have
// had alone.
struct FusedModel {
  nn::Linear *first, *second;
  double lr;
  uint64_t seed;
};
std::vector<std::vector<FusedEpoch>> train_fused(const std::vector<FusedModel>& models,
                                                 const Tensor& x, const Tensor& target,
                                                 const FusedRunOptions& options);

// The key of the order of epoch e, for whoever wants the same batches.
PhiloxKey fused_run_order(uint64_t seed, int64_t epoch);

}  // namespace pinion::optim
