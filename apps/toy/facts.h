// SPDX-License-Identifier: Apache-2.0
// What a saved model says about itself in its file, beside its weights: the columns it was trained
// on and how to prepare them.
#pragma once

#include <string>

#include "pinion/apps/toy/table.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::toy {

SafetensorsMetadata metadata_of(const Preprocessing& facts);

struct SavedModel {
  Preprocessing facts;
  int64_t hidden = 0;  // width of the hidden layer
};
// Reads and checks the facts of a model file and the shape of its first layer. Throws Error
// (checkpoint) when it is not a file of ours or does not fit together.
SavedModel read_facts(const std::string& path);

// "prediction,p(setosa),p(versicolor)" and one row a row of the table, as CSV.
std::string predictions_csv(const Preprocessing& facts,
                            const Tensor& probabilities);  // f32 [n, classes]

}  // namespace pinion::toy
