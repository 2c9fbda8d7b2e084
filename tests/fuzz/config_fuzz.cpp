// SPDX-License-Identifier: Apache-2.0
// Fuzz target: the bytes are a configuration file. It is refused as a configuration error, or what
// it says can be checked, printed and written, and reads back the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "pinion/accel/config/config.h"
#include "pinion/accel/config/schema.h"
#include "pinion/kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pinion;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  accel::Config config;
  try {
    config.read_text(text, "fuzz", size > 0 && data[0] == '{');
    if (!config.has("deepspeed_config.deepspeed_config_file")) config.check();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::config) std::abort();
    return 0;
  }
  if (config.table().empty()) std::abort();
  config.notes();
  accel::Config again, json;
  again.read_text(config.to_yaml(), "again");
  json.read_text(config.to_json(), "json", true);
  for (const accel::ConfigKey& key : accel::config_keys())
    if (again.text(key.name) != config.text(key.name) ||
        json.text(key.name) != config.text(key.name))
      std::abort();
  return 0;
}
