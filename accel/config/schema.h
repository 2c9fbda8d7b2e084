// SPDX-License-Identifier: Apache-2.0
// The table of configuration keys: everything that Accelerate's files may hold, and what Pinion
// makes of it. Reading, flags, tests and documentation all come from this table.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pinion::accel {

enum class KeyType : uint8_t { boolean, integer, real, text, choice, list };

enum class KeyUse : uint8_t {
  honoured,
  noted,    // accepted; another value than the default makes a note that says why it does nothing
  refused,  // only the default is accepted
};

struct ConfigKey {
  std::string_view name;  // "num_processes", "fsdp_config.fsdp_version"
  KeyType type = KeyType::text;
  std::string_view standard;  // the default; empty: not set
  std::string_view meaning;   // a line for people
  KeyUse use = KeyUse::honoured;
  std::string_view reason{};  // of what is noted or refused
  // Of a choice: "no|fp16|bf16|~fp8|!int4"; ~ is accepted with a note, ! refused with the reason.
  std::string_view choices{};
  double low = 0, high = 0;        // of a number
  std::string_view environment{};  // the variable that holds it, or none

  std::string_view section() const;  // "fsdp_config", or empty
  std::string_view leaf() const;     // "fsdp_version": the flag's name
  // Whether it does anything with this distributed_type: sections of one are for that alone.
  bool applies_to(std::string_view distributed_type) const;
};

// Sections are maps of their own; a key in one may leave out the prefix.
struct ConfigSection {
  std::string_view name, prefix;
};

std::span<const ConfigKey> config_keys();
std::span<const ConfigSection> config_sections();

// The values of a choice that are not refused.
std::vector<std::string> offered_choices(const ConfigKey& key);

// By full name or by leaf; null when there is no such key.
const ConfigKey* find_config_key(std::string_view name);

// A value in its one spelling, or what was expected instead: "an integer from 1 to 8".
struct CheckedValue {
  std::string value{};
  std::string expected{};  // empty when the value is good
  std::string hint{};      // ": there are no TPUs here", "; did you mean MULTI_GPU?", or empty
  std::string note{};      // why a good value does nothing here, or empty
};
CheckedValue check_value(const ConfigKey& key, std::string_view value);

// "; did you mean fsdp_version?", or nothing when no name is near.
std::string suggestion(std::string_view name, const std::vector<std::string>& known);

}  // namespace pinion::accel
