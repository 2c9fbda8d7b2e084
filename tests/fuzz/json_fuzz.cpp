// SPDX-License-Identifier: Apache-2.0
// Fuzz target: the bytes are JSON text. It is refused, or it says the same after a round trip, with
// and without a map of places.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "pinion/runtime/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pinion;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    SourceMap map;
    const nlohmann::json value = parse_json(text, "fuzz");
    if (parse_json(value.dump(), "again") != value) std::abort();
    if (parse_json(text, "fuzz", ErrorKind::data, &map) != value) std::abort();
    if (!map.find("")) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::data) std::abort();
  }
  return 0;
}
