// SPDX-License-Identifier: Apache-2.0
#include "pinion/nn/weights.h"

#include <unordered_set>

namespace pinion::nn {
namespace {

std::string text_of(const std::vector<int64_t>& shape) {
  std::string out;
  for (int64_t extent : shape) out += (out.empty() ? "" : ",") + std::to_string(extent);
  return "[" + out + "]";
}

bool equal(const std::vector<int64_t>& a, const Shape& b) {
  if (a.size() != static_cast<size_t>(b.rank())) return false;
  for (int i = 0; i < b.rank(); ++i)
    if (a[static_cast<size_t>(i)] != b[i]) return false;
  return true;
}

// Names and shapes by the header alone, so that a large file of something else is not read first.
void check_header(const SafetensorsReader& file, const std::vector<NamedTensor>& into,
                  const std::string& path) {
  std::unordered_set<std::string_view> names;
  for (const NamedTensor& t : into) {
    names.insert(t.name);
    const SafetensorsEntry* entry = file.find(t.name);
    PINION_REQUIRE(checkpoint, entry, "load_weights: tensor ", t.name, " is missing in ", path);
    PINION_REQUIRE(checkpoint, equal(entry->shape, t.tensor.shape()), "load_weights: tensor ",
                   t.name, " should have shape ", t.tensor.shape(), ", got ", text_of(entry->shape),
                   " in ", path);
  }
  for (const SafetensorsEntry& entry : file.entries())
    PINION_REQUIRE(checkpoint, names.count(entry.name), "load_weights: tensor ", entry.name,
                   " is not expected in ", path);
}

}  // namespace

void save_weights(Module& module, const std::string& path, SafetensorsMetadata metadata) {
  metadata.insert({"format", "pt"});
  save_safetensors(path, module.state(), metadata);
}

void load_weights(Module& module, const std::string& path) {
  const SafetensorsReader file(path);
  const std::vector<NamedTensor> into = module.state();
  check_header(file, into, path);
  std::vector<NamedTensor> from;
  from.reserve(into.size());
  for (const NamedTensor& t : into) from.push_back({t.name, file.load(*file.find(t.name))});
  copy_state(("load_weights: " + path).c_str(), into, from);
}

}  // namespace pinion::nn
