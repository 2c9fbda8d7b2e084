// SPDX-License-Identifier: Apache-2.0
// Reads the index, checks it against the files both ways, and writes one file.
#include "pinion/accel/checkpoint/merge_weights.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/safetensors.h"

namespace pinion::accel {

namespace {

using nlohmann::json;

constexpr int64_t kMostIndexBytes = 64 << 20;
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kWhole = "model.safetensors";

using Names = std::map<std::string, std::set<std::string>>;  // tensors by file

// weight_map, turned round.
Names read_index(const std::string& path) {
  SourceMap map;
  const json root = load_json(path, kMostIndexBytes, ErrorKind::data, &map);
  const bool has_map = root.is_object() && root.contains("weight_map") &&
                       root["weight_map"].is_object() && !root["weight_map"].empty();
  PINION_REQUIRE(data, has_map, path, ": expected a weight_map of tensors and their files");
  Names files;
  for (const auto& [name, file] : root["weight_map"].items()) {
    PINION_REQUIRE(data, file.is_string(), path, ": ", quoted(name, 80),
                   ": expected the name of a file, got ", file.type_name());
    const auto& text = file.get_ref<const std::string&>();
    const bool plain = text.find('/') == text.npos && text != ".." &&
                       text.find('\0') == text.npos && text.ends_with(".safetensors");
    PINION_REQUIRE(data, plain, path, ": ", quoted(name, 80),
                   ": expected a .safetensors file of this directory, got ", quoted(text, 80));
    files[text].insert(name);
  }
  return files;
}

// Appends the tensors of one file, which must be those that the index gives it.
void read_shard(const std::string& path, const std::set<std::string>& names,
                std::vector<NamedTensor>& out, SafetensorsMetadata& metadata) {
  const SafetensorsReader reader(path);
  for (const std::string& name : names)
    PINION_REQUIRE(data, reader.find(name), path, ": expected the tensor ", quoted(name, 80),
                   " that the index gives it, got none of that name");
  for (const SafetensorsEntry& entry : reader.entries()) {
    PINION_REQUIRE(data, names.contains(entry.name), path,
                   ": expected only tensors that the index gives it, got ", quoted(entry.name, 80));
    out.push_back({entry.name, reader.load(entry)});
  }
  for (const auto& [key, value] : reader.metadata()) {
    const auto [at, added] = metadata.emplace(key, value);
    PINION_REQUIRE(data, added || at->second == value, path, ": metadata ", quoted(key, 80),
                   ": expected ", quoted(at->second, 80), " as in the other files, got ",
                   quoted(value, 80));
  }
}

}  // namespace

MergedWeights merge_weights(const std::string& directory, const std::string& to) {
  const std::string index = directory + "/" + kIndex, whole = directory + "/" + kWhole;
  std::vector<NamedTensor> tensors;
  SafetensorsMetadata metadata;
  MergedWeights merged;
  if (exists(index)) {
    const Names files = read_index(index);
    for (const auto& [file, names] : files)
      read_shard(cat({directory, "/", file}), names, tensors, metadata);
    merged.files = static_cast<int64_t>(files.size());
  } else {
    PINION_REQUIRE(missing, exists(whole), directory, ": expected ", kIndex, " or ", kWhole,
                   ", got neither");
    SafetensorsContents contents = load_safetensors(whole);
    tensors = std::move(contents.tensors);
    metadata = std::move(contents.metadata);
    merged.files = 1;
  }
  if (!metadata.contains("format")) metadata["format"] = "pt";  // what PyTorch's tools look for
  for (const NamedTensor& t : tensors) merged.bytes += t.tensor.numel() * size_of(t.tensor.dtype());
  merged.tensors = static_cast<int64_t>(tensors.size());
  save_safetensors(to, tensors, metadata);
  return merged;
}

}  // namespace pinion::accel
