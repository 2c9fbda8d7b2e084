// SPDX-License-Identifier: Apache-2.0
// Joins weights that lie in several safetensors files into one that any reader takes whole.
#pragma once

#include <cstdint>
#include <string>

namespace pinion::accel {

struct MergedWeights {
  int64_t tensors = 0, files = 0, bytes = 0;
};

// `directory` holds model.safetensors.index.json ({"weight_map": {name: file}}) and the files that
// it names, or model.safetensors alone. Writes `to` whole or not at
// all. Throws Error (missing, data): a file or tensor that is not there, one that is in none or two
// of the places, a name that leaves the directory.
MergedWeights merge_weights(const std::string& directory, const std::string& to);

}  // namespace pinion::accel
