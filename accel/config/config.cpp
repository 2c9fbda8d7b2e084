// SPDX-License-Identifier: Apache-2.0
// Settings and their merging, and what several keys say together.
#include "pinion/accel/config/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "pinion/accel/config/schema.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value ? value : "";
}

// Set by launchers for what the files call a distributed_type.
constexpr std::pair<const char*, const char*> kTypeVariables[] = {
    {"ACCELERATE_USE_DEEPSPEED", "DEEPSPEED"}, {"ACCELERATE_USE_FSDP", "FSDP"}};

bool belongs_to_launcher(const ConfigKey& key) { return key.environment.starts_with("MASTER_"); }

}  // namespace

const char* name_of(Origin origin) {
  switch (origin) {
    case Origin::flag: return "flag";
    case Origin::file: return "file";
    case Origin::environment: return "environment";
    case Origin::standard: break;
  }
  return "default";
}

Config::Config() {
  for (const ConfigKey& key : config_keys())
    settings_.emplace(key.name, Setting{std::string(key.standard), Origin::standard, {}});
}

Setting& Config::at(std::string_view key) {
  const auto found = settings_.find(key);
  PINION_CHECK(found != settings_.end(), "config: expected a key of the table, got ", quoted(key));
  return found->second;
}

const Setting& Config::operator[](std::string_view key) const {
  return const_cast<Config*>(this)->at(key);  // NOLINT: at() changes nothing
}

int64_t Config::integer(std::string_view key, int64_t otherwise) const {
  const std::string& value = text(key);
  std::from_chars(value.data(), value.data() + value.size(), otherwise);
  return otherwise;
}

double Config::real(std::string_view key, double otherwise) const {
  const std::string& value = text(key);
  std::from_chars(value.data(), value.data() + value.size(), otherwise);
  return otherwise;
}

// Checks the value whether it wins or not: a mistake in a file is one under any flag.
void Config::assign(const ConfigKey& key, std::string_view value, Origin origin,
                    std::string where) {
  const CheckedValue checked = check_value(key, value);
  if (!checked.expected.empty()) {
    const std::string name = origin == Origin::file ? cat({": ", key.name}) : "";
    fail(origin == Origin::flag ? ErrorKind::usage : ErrorKind::config,
         {where, name, ": expected ", checked.expected, ", got ", quoted(value, 80), checked.hint});
  }
  Setting& setting = at(key.name);
  // One flag given twice overrides itself; --use_fsdp and --use_deepspeed are two.
  const bool both =
      origin == Origin::flag && setting.origin == Origin::flag && !setting.value.empty();
  PINION_REQUIRE(usage, !both || setting.where == where || setting.value == checked.value, where,
                 ": expected no ", setting.where, " beside it: ", key.name, " cannot be ",
                 setting.value, " and ", checked.value);
  if (origin >= setting.origin) setting = {checked.value, origin, std::move(where)};
}

void Config::set_flag(std::string_view name, std::string_view value, std::string_view flag) {
  const ConfigKey* key = find_config_key(name);
  PINION_CHECK(key, "config: expected a key of the table, got ", quoted(name));
  assign(*key, value, Origin::flag, flag.empty() ? cat({"--", key->leaf()}) : std::string(flag));
}

void Config::read_environment() {
  for (const ConfigKey& key : config_keys()) {
    if (key.environment.empty()) continue;
    const std::string name(key.environment);
    const std::string value = variable(name.c_str());
    if (!value.empty()) assign(key, value, Origin::environment, name);
  }
  const ConfigKey& boolean = *find_config_key("debug");
  for (const auto& [name, type] : kTypeVariables) {
    const std::string value = variable(name);
    if (value.empty()) continue;
    const CheckedValue checked = check_value(boolean, value);
    PINION_REQUIRE(config, checked.expected.empty(), name, ": expected ", checked.expected,
                   ", got ", quoted(value, 80));
    if (checked.value == "true")
      assign(*find_config_key("distributed_type"), type, Origin::environment, name);
  }
}

std::vector<std::pair<std::string, std::string>> Config::environment() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const ConfigKey& key : config_keys()) {
    const Setting& setting = (*this)[key.name];
    if (key.environment.empty() || belongs_to_launcher(key) || setting.value.empty()) continue;
    if (key.name == "use_cpu" || (setting.given() && key.applies_to(text("distributed_type"))))
      out.emplace_back(key.environment, setting.value);
  }
  for (const auto& [name, type] : kTypeVariables)
    if (text("distributed_type") == type) out.emplace_back(name, "true");
  return out;
}

std::string Config::precision() const {
  const std::string& value = text("mixed_precision");
  return value == "fp8" ? "bf16" : value;
}

int Config::zero_stage() const {
  const std::string& type = text("distributed_type");
  if (type == "DEEPSPEED") return static_cast<int>(integer("deepspeed_config.zero_stage"));
  if (type != "FSDP") return 0;
  if (integer("fsdp_config.fsdp_version") == 2)
    return flag("fsdp_config.fsdp_reshard_after_forward") ? 3 : 2;
  const std::string& strategy = text("fsdp_config.fsdp_sharding_strategy");
  if (strategy == "NO_SHARD") return 0;
  return strategy == "SHARD_GRAD_OP" || strategy == "HYBRID_SHARD_ZERO2" ? 2 : 3;
}

namespace {

// A key of deepspeed_config that also means something without DeepSpeed, when a flag or the
// environment has it.
bool applies(const Config& config, std::string_view key) {
  return config.text("distributed_type") == "DEEPSPEED" || config[key].origin != Origin::file;
}

}  // namespace

int64_t Config::gradient_accumulation_steps() const {
  const std::string_view key = "deepspeed_config.gradient_accumulation_steps";
  return applies(*this, key) ? integer(key, 1) : 1;
}

std::optional<double> Config::gradient_clipping() const {
  const std::string_view key = "deepspeed_config.gradient_clipping";
  const double norm = applies(*this, key) ? real(key) : 0;
  return norm > 0 ? std::optional(norm) : std::nullopt;
}

std::vector<std::string> Config::notes() const {
  std::vector<std::string> out;
  for (const ConfigKey& key : config_keys()) {
    const Setting& setting = (*this)[key.name];
    if (!setting.given() || setting.value.empty()) continue;
    std::string why = check_value(key, setting.value).note;
    const std::string& type = text("distributed_type");
    if (setting.origin == Origin::file && !key.applies_to(type))
      why = cat({"distributed_type is ", type.empty() ? "not set" : type});
    if (!why.empty())
      out.push_back(cat({setting.where, ": ", key.name, ": ", quoted(setting.value, 80),
                         " has no effect: ", why}));
  }
  return out;
}

std::string Config::table() const {
  std::string out;
  for (const ConfigKey& key : config_keys()) {
    const Setting& setting = (*this)[key.name];
    const bool needed =
        key.use == KeyUse::honoured && key.section().empty() && key.name != "compute_environment";
    if (!setting.given() && !needed) continue;
    const std::string value = setting.value.empty() ? "-" : escaped(setting.value);
    out += fmt::format("{:<34} {:<16} {}{}{}\n", key.name, value, name_of(setting.origin),
                       setting.where.empty() ? "" : " ", escaped(setting.where));
  }
  return out;
}

}  // namespace pinion::accel
