// SPDX-License-Identifier: Apache-2.0
// Reads and writes configuration files, with what older versions of them called differently.
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "pinion/accel/config/config.h"
#include "pinion/accel/config/schema.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/yaml.h"

namespace pinion::accel {

namespace {

using nlohmann::json;

constexpr int64_t kMostJsonBytes = 1 << 20;

struct Entry {
  std::string key;      // as written
  std::string pointer;  // where it is in the file
  const json* value;
};

// A key in a JSON pointer has ~ and / spelt ~0 and ~1.
std::string child(const std::string& pointer, std::string_view key) {
  std::string out = pointer + "/";
  for (const char c : key) out += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return out;
}

// The entries of an object, in the order of the file.
std::vector<Entry> entries(const json& object, const std::string& pointer, const SourceMap& map) {
  std::vector<Entry> out;
  for (const auto& [key, value] : object.items()) out.push_back({key, child(pointer, key), &value});
  const auto before = [&](const Entry& a, const Entry& b) {
    const SourceMap::Mark *x = map.find(a.pointer), *y = map.find(b.pointer);
    if (!x || !y) return x < y;
    return std::pair(x->line, x->column) < std::pair(y->line, y->column);
  };
  std::ranges::sort(out, before);
  return out;
}

const char* kind_of(const json& value) { return value.is_array() ? "a list" : "a map"; }

// The text of a scalar as it was written; of a list, its scalars with commas; nothing for null and
// for what is empty.
std::string text_of(const ConfigKey& key, const Entry& entry, const SourceMap& map) {
  const json& value = *entry.value;
  if (value.is_null() || (value.is_structured() && value.empty())) return {};
  const bool list = value.is_array() && key.type == KeyType::list;
  PINION_REQUIRE(config, list || !value.is_structured(), map.where(entry.pointer), ": ", key.name,
                 ": expected ", key.type == KeyType::list ? "a list" : "one value", ", got ",
                 kind_of(value));
  if (list) {
    std::string joined;
    for (size_t i = 0; i < value.size(); ++i) {
      const SourceMap::Mark* mark = map.find(child(entry.pointer, std::to_string(i)));
      PINION_REQUIRE(config, !value[i].is_structured() && mark, map.where(entry.pointer), ": ",
                     key.name, ": expected a list of values, got ", kind_of(value[i]), " in it");
      joined += (i ? "," : "") + mark->text;
    }
    return joined;
  }
  const bool number = key.type == KeyType::integer || key.type == KeyType::real;
  if (number && value.is_number_integer()) return value.dump();  // 0x10, 1_000
  const SourceMap::Mark* mark = map.find(entry.pointer);
  return mark ? mark->text : std::string();
}

// What older files wrote.
constexpr std::pair<std::string_view, std::string_view> kOldNames[] = {
    {"fp16", "mixed_precision"},
    {"fsdp_backward_prefetch_policy", "fsdp_backward_prefetch"},
    {"amax_history_length", "amax_history_len"},
    {"amax_compute_algorithm", "amax_compute_algo"},
    {"optimization_level", "opt_level"},
};
constexpr std::string_view kStrategies[] = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD",
                                            "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"};
constexpr std::string_view kPrefetch[] = {"BACKWARD_PRE", "BACKWARD_POST"};

std::string modern_name(std::string_view name) {
  for (const auto& [old, now] : kOldNames)
    if (name == old) return std::string(now);
  return std::string(name);
}

// Enumerations were numbers, and fp16 was a switch.
std::string modern_text(std::string_view written, const ConfigKey& key, std::string text) {
  if (written == "fp16") {
    const CheckedValue on = check_value(*find_config_key("debug"), text);
    if (!text.empty() && on.expected.empty()) return on.value == "true" ? "fp16" : "no";
  }
  std::span<const std::string_view> names;
  if (key.leaf() == "fsdp_sharding_strategy") names = kStrategies;
  if (key.leaf() == "fsdp_backward_prefetch") names = kPrefetch;
  const size_t number = text.size() == 1 ? static_cast<size_t>(text[0] - '0') : 0;
  if (number >= 1 && number <= names.size()) return std::string(names[number - 1]);
  return text;
}

const ConfigKey* find_in(std::string_view section, std::string_view name, std::string_view prefix) {
  for (const ConfigKey& key : config_keys())
    if (key.section() == section &&
        (key.leaf() == name || (!prefix.empty() && key.leaf() == cat({prefix, name}))))
      return &key;
  return nullptr;
}

[[noreturn]] void fail_unknown(const Entry& entry, const ConfigSection& section,
                               const SourceMap& map) {
  std::string hint;
  if (const ConfigKey* key = find_config_key(entry.key); key && key->section() != section.name) {
    hint = key->section().empty() ? "; it belongs at the top level"
                                  : cat({"; it belongs under ", key->section()});
  } else {
    std::vector<std::string> known;
    for (const ConfigKey& other : config_keys()) {
      if (other.section() != section.name) continue;
      known.emplace_back(other.leaf());
      if (!section.prefix.empty() && other.leaf().starts_with(section.prefix))
        known.emplace_back(other.leaf().substr(section.prefix.size()));
    }
    if (section.name.empty())
      for (const ConfigSection& other : config_sections()) known.emplace_back(other.name);
    hint = suggestion(entry.key, known);
  }
  fail(ErrorKind::config, {map.where(entry.pointer), ": expected a known key",
                           section.name.empty() ? "" : cat({" of ", section.name}), ", got ",
                           quoted(entry.key, 80), hint});
}

struct Found {
  const ConfigKey* key;
  std::string text, where;
};

// Appends what the object says to `out`; `section` is empty at the top level.
void read_object(const json& object, const std::string& pointer, const ConfigSection& section,
                 const SourceMap& map, std::vector<Found>& out) {
  for (const Entry& entry : entries(object, pointer, map)) {
    const ConfigSection* inner = nullptr;
    for (const ConfigSection& other : config_sections())
      if (section.name.empty() && entry.key == other.name) inner = &other;
    if (inner) {
      PINION_REQUIRE(config, entry.value->is_object() || entry.value->is_null(),
                     map.where(entry.pointer), ": ", entry.key, ": expected a map, got ",
                     entry.value->is_array() ? "a list" : "one value");
      if (entry.value->is_object()) read_object(*entry.value, entry.pointer, *inner, map, out);
      continue;
    }
    const std::string name = modern_name(entry.key);
    const ConfigKey* key = find_in(section.name, name, section.prefix);
    if (!key && section.name.empty() && name == "dynamo_backend") key = find_config_key(name);
    if (!key) fail_unknown(entry, section, map);
    if (entry.key == "fp16" && object.contains("mixed_precision")) continue;
    std::string text = modern_text(entry.key, *key, text_of(*key, entry, map));
    if (!text.empty()) out.push_back({key, std::move(text), map.where(entry.pointer)});
  }
}

}  // namespace

void Config::read_text(std::string_view text, std::string_view source, bool is_json) {
  SourceMap map;
  const json root = is_json ? parse_json(text, source, ErrorKind::config, &map)
                            : parse_yaml(text, source, ErrorKind::config, &map);
  PINION_REQUIRE(config, root.is_object(), source, ": expected keys and values, got ",
                 root.is_null()    ? "nothing"
                 : root.is_array() ? "a list"
                                   : "one value");
  std::vector<Found> found;
  read_object(root, "", {}, map, found);
  for (Found& f : found) assign(*f.key, f.text, Origin::file, std::move(f.where));
}

void Config::read_file(const std::string& path) {
  const bool is_json = path.ends_with(".json");
  const std::string text =
      pinion::read_file(path, is_json ? kMostJsonBytes : kMaxYamlBytes, ErrorKind::config);
  read_text(text, path, is_json);
}

bool Config::read_default_file() {
  const std::string path = default_config_path();
  if (path.empty() || !exists(path)) return false;
  read_file(path);
  return true;
}

std::string default_config_path() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    return std::string(value ? value : "");
  };
  std::string folder = variable("HF_HOME");
  if (folder.empty() && !variable("XDG_CACHE_HOME").empty())
    folder = variable("XDG_CACHE_HOME") + "/huggingface";
  if (folder.empty() && !variable("HOME").empty())
    folder = variable("HOME") + "/.cache/huggingface";
  return folder.empty() ? folder : folder + "/accelerate/default_config.yaml";
}

// --- DeepSpeed's own file ------------------------------------------------------------------------

// The few of its values that mean something here; "auto" leaves a value to the other settings.
void Config::read_deepspeed_file() {
  static constexpr std::pair<const char*, const char*> kTaken[] = {
      {"/zero_optimization/stage", "deepspeed_config.zero_stage"},
      {"/zero_optimization/offload_optimizer/device", "deepspeed_config.offload_optimizer_device"},
      {"/zero_optimization/offload_param/device", "deepspeed_config.offload_param_device"},
      {"/gradient_accumulation_steps", "deepspeed_config.gradient_accumulation_steps"},
      {"/gradient_clipping", "deepspeed_config.gradient_clipping"},
      {"/fp16/enabled", "mixed_precision"},
      {"/bf16/enabled", "mixed_precision"},
  };
  const Setting from = (*this)["deepspeed_config.deepspeed_config_file"];
  SourceMap map;
  const json root = load_json(from.value, kMostJsonBytes, ErrorKind::config, &map);
  for (const auto& [pointer, name] : kTaken) {
    const json::json_pointer at_pointer(pointer);
    if (!root.is_object() || !root.contains(at_pointer)) continue;
    const ConfigKey& key = *find_config_key(name);
    std::string text = text_of(key, {{}, pointer, &root.at(at_pointer)}, map);
    if (text.empty() || text == "auto") continue;
    if (key.name == "mixed_precision") {
      if (text != "true") continue;
      text = std::string(pointer).substr(1, 4);  // fp16 or bf16
    }
    const Setting before = (*this)[name];
    assign(key, text, from.origin, map.where(pointer));
    PINION_REQUIRE(config, before.origin != from.origin || before.value == text, map.where(pointer),
                   ": ", name, ": expected ", before.value, " as at ", before.where, ", got ",
                   text);
  }
}

// --- writing -------------------------------------------------------------------------------------

namespace {

// Values of their own types, sorted by key; choices stay text, as Accelerate writes them.
json tree_of(const Config& config) {
  json root = json::object();
  for (const ConfigKey& key : config_keys()) {
    const Setting& setting = config[key.name];
    // Whole, but for what Accelerate does not know, which would refuse the file.
    const bool theirs = !key.environment.starts_with("PINION_");
    const bool wanted =
        setting.given() || (key.section().empty() && key.use != KeyUse::noted && theirs);
    if (setting.value.empty() || !wanted) continue;
    json value = setting.value;
    if (key.type == KeyType::boolean) value = setting.value == "true";
    if (key.type == KeyType::integer) value = config.integer(key.name);
    if (key.type == KeyType::real) value = config.real(key.name);
    (key.section().empty() ? root : root[std::string(key.section())])[std::string(key.leaf())] =
        value;
  }
  return root;
}

// Between quotes unless YAML reads the bare text as the same text.
std::string yaml_scalar(const json& value) {
  if (!value.is_string()) return value.dump();
  const auto& text = value.get_ref<const std::string&>();
  const bool harmless =
      text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./") ==
          text.npos &&
      !text.empty() && parse_yaml(text, "scalar") == value;
  if (harmless) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "''" : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string Config::to_json() const { return tree_of(*this).dump(2) + "\n"; }

std::string Config::to_yaml() const {
  std::string out;
  const json tree = tree_of(*this);
  for (const auto& [key, value] : tree.items()) {
    if (!value.is_object()) {
      out += cat({key, ": ", yaml_scalar(value), "\n"});
      continue;
    }
    out += cat({key, ":\n"});
    for (const auto& [inner, scalar] : value.items())
      out += cat({"  ", inner, ": ", yaml_scalar(scalar), "\n"});
  }
  return out;
}

void Config::write(const std::string& path) const {
  write_file_atomic(path, path.ends_with(".json") ? to_json() : to_yaml());
}

}  // namespace pinion::accel
