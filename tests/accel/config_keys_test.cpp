// SPDX-License-Identifier: Apache-2.0
// Every key of the table, in a YAML and in a JSON file, as a flag and as a variable: what is of the
// wrong type, out of range, no choice, refused or misspelt is a typed error that names its place.
#include <cmath>
#include <cstdio>
#include <ostream>
#include <set>

#include "config_testing.h"

namespace pinion::accel {

void PrintTo(const ConfigKey& key, std::ostream* out) { *out << key.name; }

namespace {

std::string title_of(const ConfigKey& key) { return std::string(key.name); }

// A file with this one key, and where an error must stand.
struct File {
  std::string text, place;
  bool json;
};

std::vector<File> files_with(const ConfigKey& key, const std::string& name,
                             const std::string& value) {
  const std::string section(key.section());
  const std::string quoted = "\"" + name + "\": \"" + value + "\"";
  if (section.empty())
    return {{"# a comment\n" + name + ": '" + value + "'\n", "c.yaml:2:1", false},
            {"{\n " + quoted + "}", "c.json:2:2", true}};
  return {{section + ":\n  # a comment\n  " + name + ": '" + value + "'", "c.yaml:3:3", false},
          {"{\"" + section + "\":\n {" + quoted + "}}", "c.json:2:3", true}};
}

// Values that the key must refuse.
std::vector<std::string> bad_values(const ConfigKey& key) {
  char text[64];
  switch (key.type) {
    case KeyType::boolean: return {"maybe", "2", "[true]", "yesno"};
    case KeyType::integer:
    case KeyType::real: {
      std::vector<std::string> bad = {"two", "1x", "1e999", "nan", "0x", "--1", "1 2"};
      std::snprintf(text, sizeof text, "%.0f", key.low - 1);
      bad.emplace_back(text);
      std::snprintf(text, sizeof text, "%.0f", key.high * 2 + 1);
      bad.emplace_back(text);
      if (key.type == KeyType::integer) bad.insert(bad.end(), {"1.5", "9223372036854775808"});
      return bad;
    }
    case KeyType::choice: return {"nonsense", "a|b", "|", "7", "FULL", "!"};
    case KeyType::text:
    case KeyType::list: break;
  }
  if (key.name == "gpu_ids") return {"one", "0,,1", "0,0", "-1", ",", "0;1", "4096"};
  return {};
}

// Values that it must take, as written and as kept.
std::vector<std::pair<std::string, std::string>> good_values(const ConfigKey& key) {
  char low[64], high[64];
  std::snprintf(low, sizeof low, "%.0f", key.low);
  std::snprintf(high, sizeof high, "%.0f", key.high);
  if (key.use == KeyUse::refused && key.standard.empty()) return {};
  if (key.use == KeyUse::refused) return {{std::string(key.standard), std::string(key.standard)}};
  switch (key.type) {
    case KeyType::boolean: return {{"Yes", "true"}, {"OFF", "false"}, {"1", "true"}};
    case KeyType::integer: return {{low, low}, {high, high}, {std::string("+") + high, high}};
    case KeyType::real: return {{low, low}, {"0.5", "0.5"}, {"5e-1", "0.5"}};
    case KeyType::choice: {
      const std::string first(key.choices.substr(0, key.choices.find('|')));
      std::string upper = first;
      for (char& c : upper) c = static_cast<char>(toupper(c));
      return {{first, first}, {upper, first}};
    }
    case KeyType::text:
    case KeyType::list: break;
  }
  if (key.name == "gpu_ids") return {{"all", "all"}, {"3", "3"}, {"0, 2", "0,2"}};
  return {{"some text", "some text"}, {"NO", "NO"}, {"10.0.0.1", "10.0.0.1"}};
}

class EveryKey : public testing::TestWithParam<ConfigKey> {};

TEST_P(EveryKey, RefusesWhatItMust) {
  const ConfigKey& key = GetParam();
  for (const std::string& value : bad_values(key)) {
    for (const File& file : files_with(key, std::string(key.leaf()), value)) {
      const std::string error = error_of_text(file.text, file.json);
      const std::string start = "78 " + file.place + ": " + title_of(key) + ": expected ";
      EXPECT_EQ(error.substr(0, start.size()), start) << value;
      EXPECT_NE(error.find(", got '" + value), std::string::npos) << error;
    }
    const std::string flag = error_of([&] { Config().set_flag(key.leaf(), value); });
    const std::string start = "64 --" + std::string(key.leaf()) + ": expected ";
    EXPECT_EQ(flag.substr(0, start.size()), start) << value;
    if (key.environment.empty()) continue;
    const VariableGuard variable(std::string(key.environment), value);
    const std::string error = error_of([&] { Config().read_environment(); });
    const std::string name = "78 " + std::string(key.environment) + ": expected ";
    EXPECT_EQ(error.substr(0, name.size()), name) << value;
  }
}

TEST_P(EveryKey, WantsOneValue) {
  const ConfigKey& key = GetParam();
  const std::string section(key.section()), leaf(key.leaf());
  const std::string start = section.empty() ? "" : section + ":\n  ";
  for (const char* value : {"{a: 1}", "[[1]]", "[{}, {a: 1}]"}) {
    const std::string error = error_of_text(start + leaf + ": " + value);
    EXPECT_EQ(error.substr(0, 3), "78 ") << value;
    EXPECT_NE(error.find(title_of(key) + ": expected"), std::string::npos) << error;
  }
}

TEST_P(EveryKey, TakesWhatItMust) {
  const ConfigKey& key = GetParam();
  for (const auto& [written, kept] : good_values(key)) {
    for (const File& file : files_with(key, std::string(key.leaf()), written)) {
      Config config;
      config.read_text(file.text, "c", file.json);
      EXPECT_EQ(config.text(key.name), kept);
      EXPECT_EQ(config[key.name].origin, Origin::file);
    }
    Config config;
    config.set_flag(key.name, written);
    EXPECT_EQ(config.text(key.name), kept);
  }
  // Nothing is no value, whatever the key.
  for (const char* nothing : {"", "null", "~", "[]", "{}"}) {
    Config config;
    const std::string section(key.section());
    config.read_text(
        (section.empty() ? "" : section + ":\n  ") + std::string(key.leaf()) + ": " + nothing, "c");
    EXPECT_FALSE(config[key.name].given()) << nothing;
    EXPECT_EQ(config.text(key.name), key.standard);
  }
}

TEST_P(EveryKey, WhatIsRefusedSaysWhyAndWhatIsNotedMakesANote) {
  const ConfigKey& key = GetParam();
  std::string other = "other";
  if (key.type == KeyType::boolean) other = key.standard == "true" ? "false" : "true";
  if (key.type == KeyType::integer || key.type == KeyType::real) other = "2";
  if (key.type == KeyType::choice) other = key.choices.substr(key.choices.rfind('|') + 1);
  if (key.use == KeyUse::refused) {
    const std::string error = error_of([&] { Config().set_flag(key.name, other); });
    EXPECT_NE(error.find(": " + std::string(key.reason)), std::string::npos) << error;
  } else if (key.use == KeyUse::noted && other != key.standard) {
    Config config;
    config.set_flag(key.name, other);
    ASSERT_EQ(config.notes().size(), 1);
    EXPECT_NE(config.notes()[0].find(std::string(key.reason)), std::string::npos);
  }
  EXPECT_EQ(key.use != KeyUse::honoured, !key.reason.empty() && key.use != KeyUse::honoured);
}

// One slip of the hand in the key: two letters swapped, one lost, one too many.
TEST_P(EveryKey, MisspeltIsUnknownAndSuggestsIt) {
  const ConfigKey& key = GetParam();
  std::string leaf(key.leaf());
  std::vector<std::string> slips = {leaf + "s", leaf.substr(0, leaf.size() - 1)};
  std::string swapped = leaf;
  std::swap(swapped[1], swapped[2]);
  slips.push_back(swapped);
  for (const std::string& slip : slips) {
    const std::string section(key.section());
    bool known = false;
    for (const ConfigKey& other : config_keys())
      known |= other.section() == section && other.leaf() == slip;
    if (known) continue;  // "command" is "commands" without its last letter
    for (const File& file : files_with(key, slip, "1")) {
      const std::string error = error_of_text(file.text, file.json);
      const std::string start = "78 " + file.place + ": expected a known key";
      EXPECT_EQ(error.substr(0, start.size()), start) << slip;
      const std::string end = "did you mean " + leaf + "?";
      EXPECT_NE(error.find(end), std::string::npos) << error;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Config, EveryKey,
                         testing::ValuesIn(config_keys().begin(), config_keys().end()),
                         [](const auto& key) {
                           std::string name(key.param.name);
                           for (char& c : name)
                             if (c == '.') c = '_';
                           return name;
                         });

TEST(ConfigKeys, TheTableIsSound) {
  std::set<std::string_view> names, leaves, variables, sections;
  for (const ConfigSection& section : config_sections()) sections.insert(section.name);
  for (const ConfigKey& key : config_keys()) {
    SCOPED_TRACE(key.name);
    EXPECT_TRUE(names.insert(key.name).second);
    EXPECT_TRUE(leaves.insert(key.leaf()).second);  // flags are leaves
    if (!key.environment.empty()) {
      EXPECT_TRUE(variables.insert(key.environment).second);
    }
    EXPECT_TRUE(key.section().empty() || sections.contains(key.section()));
    EXPECT_FALSE(key.meaning.empty());
    EXPECT_EQ(key.type == KeyType::choice, !key.choices.empty());
    EXPECT_TRUE(key.use == KeyUse::honoured || !key.reason.empty());
    const bool marked = key.choices.find_first_of("!~") != key.choices.npos;
    EXPECT_TRUE(!marked || !key.reason.empty());
    if (key.type == KeyType::integer || key.type == KeyType::real) {
      EXPECT_LT(key.low, key.high);
    }
    if (key.standard.empty()) continue;
    const CheckedValue checked = check_value(key, key.standard);
    EXPECT_EQ(checked.expected, "");
    EXPECT_EQ(checked.value, key.standard);
    EXPECT_EQ(checked.note, "");
  }
  EXPECT_GE(names.size(), 100);
}

}  // namespace
}  // namespace pinion::accel
