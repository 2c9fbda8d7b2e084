// SPDX-License-Identifier: Apache-2.0
// Reads one checkpoint: verifies its files, and gives the state of parts, by ranges where ranks
// wrote slices.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pinion/accel/checkpoint/manifest.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::accel {

// All errors are of kind checkpoint, or io, and name the file. Only files that the manifest lists
// are opened, and only right in the directory, through no symbolic link.
class CheckpointReader {
 public:
  explicit CheckpointReader(const std::string& directory);  // reads and checks the manifest
  ~CheckpointReader();
  CheckpointReader(const CheckpointReader&) = delete;
  CheckpointReader& operator=(const CheckpointReader&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const std::string& directory() const { return path_; }

  // Compares size and checksum of every file, or of the share of one of several ranks.
  void verify(int rank = 0, int size = 1) const;

  // The state of a part, placed here as `as` says, for `rank` of `size`: the tensors and slices
  // that `wanted` names, into new memory, and its values. What is missing, not expected or of
  // another shape or type is an error that names it.
  State read(const std::string& part, const State& wanted, Placement as, int rank, int size);
  // Every tensor of a part, whole.
  std::vector<NamedTensor> read_whole(const std::string& part);

 private:
  using Pieces = std::map<std::string, std::vector<const ManifestTensor*>>;  // by name, by offset
  Pieces pieces_of(const ManifestPart& part, int rank) const;
  Tensor range(const std::vector<const ManifestTensor*>& pieces, int64_t begin, int64_t count);
  Tensor load(const ManifestTensor& piece, int64_t begin, int64_t count);
  const nlohmann::json& values_of(int rank);
  void read_values(const ManifestPart& part, const State& wanted, int rank, State& out);
  void check_per_rank(const ManifestPart& part, int size);

  std::string path_;
  File directory_;
  Manifest manifest_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>, std::less<>> open_;
  std::map<int, nlohmann::json> values_;
};

}  // namespace pinion::accel
