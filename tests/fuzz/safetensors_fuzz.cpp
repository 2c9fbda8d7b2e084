// SPDX-License-Identifier: Apache-2.0
// Fuzz target: the bytes are a safetensors file. Its header is parsed or refused as data, and what
// is accepted tiles the file exactly.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "pinion/runtime/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pinion;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const auto mode : {SafetensorsMode::strict, SafetensorsMode::compat}) {
    try {
      const SafetensorsHeader header = parse_safetensors_header(bytes, size, "fuzz", mode);
      uint64_t end = header.data_begin;
      for (const SafetensorsEntry& entry : header.entries) {
        if (header.data_begin + entry.offset != end || entry.bytes > size) std::abort();
        end += entry.bytes;
      }
      if (end != size) std::abort();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::data) std::abort();
    }
  }
  return 0;
}
