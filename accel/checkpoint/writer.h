// SPDX-License-Identifier: Apache-2.0
// Writes the files of a checkpoint, durably and with their checksums, and puts them in their place.
#pragma once

#include <string>
#include <vector>

#include "pinion/accel/checkpoint/manifest.h"

namespace pinion::accel {

// A part as it was when save() was called.
struct PartSnapshot {
  std::string name;
  PartOptions options;
  State state;
};

// Writes what `rank` has to write into an existing directory; gives the lists of files and tensors.
Manifest write_rank_files(const std::string& directory, int rank,
                          const std::vector<PartSnapshot>& parts);

// Of rank 0, when all files are there: writes the manifest, makes the directory durable and renames
// it to `place`; what was there moves to `directory`. On return it is durable. `renamed` says,
// after an error too, whether it is in its place.
void publish(const std::string& directory, const std::string& place, const Manifest& manifest,
             bool& renamed);

}  // namespace pinion::accel
