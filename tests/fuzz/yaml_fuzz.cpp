// SPDX-License-Identifier: Apache-2.0
// Fuzz target: the bytes are YAML text. It is refused as a configuration error, or it gives a tree
// within the limits.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "pinion/runtime/yaml.h"

namespace {

int depth_of(const nlohmann::json& value) {
  int deepest = 0;
  if (value.is_structured())
    for (const nlohmann::json& item : value) deepest = std::max(deepest, depth_of(item));
  return deepest + (value.is_structured() ? 1 : 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pinion;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    SourceMap map;
    const nlohmann::json value = parse_yaml(text, "fuzz", ErrorKind::config, &map);
    if (depth_of(value) > kMaxYamlDepth) std::abort();
    if (value.size() > static_cast<size_t>(kMaxYamlNodes)) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::config) std::abort();
  }
  return 0;
}
