// SPDX-License-Identifier: Apache-2.0
// MANIFEST.json: what belongs to a checkpoint. Parsing believes nothing: every field must be there
// and make sense, names must be plain, slices must join to whole tensors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/accel/checkpoint/checkpoint.h"

namespace pinion::accel {

inline constexpr const char* kManifestName = "MANIFEST.json";
inline constexpr int64_t kManifestVersion = 1;
inline constexpr int64_t kMaxManifest = int64_t{1} << 28;  // bytes

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  uint32_t crc = 0;
};

struct ManifestPart {
  std::string name;
  Placement placement = Placement::replicated;
  bool optional = false;
};

// A piece of a tensor: elements [offset, offset + count) of one of `shape` lie in `file` as `key`.
struct ManifestTensor {
  std::string part, name;
  int rank = 0;  // who wrote it
  std::string file, key;
  Shape shape;
  int64_t offset = 0, count = 0;
};

struct Manifest {
  int64_t version = kManifestVersion;  // of another one, nothing else is known
  int64_t step = 0;
  std::string run;  // names the process that wrote it
  int world_size = 1;
  bool best = false;
  std::string config = "{}";  // JSON
  std::vector<ManifestFile> files;
  std::vector<ManifestPart> parts;
  std::vector<ManifestTensor> tensors;

  std::string text() const;
  const ManifestFile* file(std::string_view name) const;  // null when it is not listed
  const ManifestPart* part(std::string_view name) const;
};

// `source` names the file in errors, of kind checkpoint.
Manifest parse_manifest(std::string_view text, const std::string& source);

// What a rank tells rank 0 of what it wrote: the two lists, as JSON.
std::string files_and_tensors_text(const Manifest& written);
void add_files_and_tensors(std::string_view text, Manifest& to);

// Letters, digits, '.', '_' and '-', and no '.' in front: what names of parts and files consist of.
bool is_plain_name(std::string_view name);

}  // namespace pinion::accel
