// SPDX-License-Identifier: Apache-2.0
// YAML: the files that people have are read as they mean them; what could surprise is refused with
// its place.
#include "pinion/runtime/yaml.h"

#include <gmock/gmock.h>

#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>

#include "pinion/tests/support/fs_testing.h"

namespace pinion {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

json parse(std::string_view text) { return parse_yaml(text, "t.yaml"); }

TEST(Yaml, ReadsALaunchConfiguration) {
  const json value = parse(
      "# how to launch\r\n"
      "compute_environment: LOCAL_MACHINE\r\n"
      "distributed_type: MULTI_GPU   # \xe5\xa4\x9a\r\n"
      "downcast_bf16: 'no'\r\n"
      "fsdp_config: {}\r\n"
      "gpu_ids: 0,1\r\n"
      "tpu_env: []\r\n"
      "main_process_ip: '1234'\r\n"
      "num_processes: 2\r\n"
      "nested:\r\n"
      "  list:\r\n"
      "  - 1\r\n"
      "  - [a, \"b\"]\r\n"
      "  empty:\r\n"
      "same_network: true");  // no newline at the end
  EXPECT_EQ(value, json({{"compute_environment", "LOCAL_MACHINE"},
                         {"distributed_type", "MULTI_GPU"},
                         {"downcast_bf16", "no"},
                         {"fsdp_config", json::object()},
                         {"gpu_ids", "0,1"},
                         {"tpu_env", json::array()},
                         {"main_process_ip", "1234"},
                         {"num_processes", 2},
                         {"nested", {{"list", {1, {"a", "b"}}}, {"empty", nullptr}}},
                         {"same_network", true}}));
}

TEST(Yaml, ReadsJsonTextMarksAndBlocks) {
  EXPECT_EQ(parse("{\n\t\"a\": [1, 2.5, null],\n\t\"b\": {\"c\": \"\\u00e4\\n\"}\n}\n"),
            json({{"a", {1, 2.5, nullptr}}, {"b", {{"c", "\xc3\xa4\n"}}}}));
  EXPECT_EQ(parse("\xEF\xBB\xBF%YAML 1.1\n---\na: 1\n...\n"), json({{"a", 1}}));
  EXPECT_EQ(parse("a: |\n  one\n  two\nb: >-\n  one\n  two\n"),
            json({{"a", "one\ntwo\n"}, {"b", "one two"}}));
  EXPECT_EQ(parse("a:\t1\n? b\n: 2\n"), json({{"a", 1}, {"b", 2}}));
  EXPECT_EQ(parse("'<<': 1\n1: a\nyes: b\n~: c\n"),
            json({{"<<", 1}, {"1", "a"}, {"yes", "b"}, {"~", "c"}}));
  for (const char* empty : {"", "\n", "# only a comment", "---\n", "~"})
    EXPECT_TRUE(parse(empty).is_null()) << empty;
}

TEST(Yaml, PlainScalarsHaveTheTypesOfYaml11) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::pair<const char*, json> cases[] = {
      {"~", nullptr},
      {"null", nullptr},
      {"Null", nullptr},
      {"NULL", nullptr},
      {"nULL", "nULL"},
      {"true", true},
      {"Yes", true},
      {"ON", true},
      {"no", false},
      {"Off", false},
      {"FALSE", false},
      {"tRue", "tRue"},
      {"y", "y"},
      {"n", "n"},
      {"nO", "nO"},
      {"0", 0},
      {"-0", 0},
      {"+12", 12},
      {"-34", -34},
      {"1_000", 1000},
      {"0x1F", 31},
      {"-0x_ff", -255},
      {"0b101", 5},
      {"010", 8},
      {"-017", -15},
      {"08", "08"},
      {"0o17", "0o17"},
      {"0x", "0x"},
      {"9223372036854775807", INT64_MAX},
      {"-9223372036854775808", INT64_MIN},
      {"18446744073709551615", UINT64_MAX},
      {"18446744073709551616", "18446744073709551616"},
      {"-9223372036854775809", "-9223372036854775809"},
      {"1.5", 1.5},
      {"1.", 1.0},
      {".5", 0.5},
      {"-.5", -0.5},
      {"1e-3", 1e-3},
      {"1E3", 1e3},
      {"+1.5e+3", 1500.0},
      {"6.8523e+5", 685230.0},
      {"1_000.5", 1000.5},
      {"1e", "1e"},
      {".", "."},
      {"1e999", "1e999"},
      {".inf", inf},
      {"-.INF", -inf},
      {"+.Inf", inf},
      {".iNF", ".iNF"},
      {"-", "-"},
      {"+", "+"},
      {"_1", "_1"},
      {"1.5.2", "1.5.2"},
      {"12ab", "12ab"},
      {"_", "_"},
      {"1:30", "1:30"},
      {"2001-12-14", "2001-12-14"},
      {"127.0.0.1", "127.0.0.1"},
      {"=", "="},
  };
  for (const auto& [text, expected] : cases) {
    const json value = parse(std::string("[") + text + "]").at(0);
    EXPECT_EQ(value, expected) << text;
    EXPECT_EQ(value.type() == json::value_t::string, expected.type() == json::value_t::string);
    EXPECT_EQ(parse(std::string("'") + text + "'"), text) << "quoted";
    EXPECT_EQ(parse(std::string("\"") + text + "\""), text) << "quoted";
  }
}

struct Bad {
  std::string text;
  const char* place;
  const char* what;
};

void check_refused(std::initializer_list<Bad> cases) {
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.what);
    const Error error = error_of([&] { parse(bad.text); });
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_THAT(error.what(), StartsWith(std::string("t.yaml:") + bad.place + ": expected "));
    EXPECT_THAT(error.what(), HasSubstr(bad.what));
    EXPECT_LT(strlen(error.what()), 300u);
  }
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::string deep_block(int depth) {
  std::string out;
  for (int i = 0; i < depth; ++i) out += std::string(static_cast<size_t>(i), ' ').append("a:\n");
  return out;
}

TEST(Yaml, BadTextIsRefusedWithItsPlace) {
  check_refused({Bad{"a: &x 1\n", "1:4", "no anchors, got '&x'"},
                 Bad{"b: 1\na: *x\n", "2:4", "no aliases, got '*x'"},
                 Bad{"a: &x [*x]", "1:4", "no anchors"},
                 Bad{"&k a: 1", "1:1", "no anchors"},
                 Bad{"a: !!str 1", "1:4", "no tags, got 'tag:yaml.org,2002:str'"},
                 Bad{"a: ! 1", "1:4", "no tags"},
                 Bad{"\xc3\xa4: 1\n\xc3\xa4\xc3\xa4: ! '1'", "2:5", "no tags"},
                 Bad{"--- !x {}\n", "1:5", "no tags"},
                 Bad{"!<x> a: 1", "1:1", "no tags"},
                 Bad{"a: !x [1]", "1:4", "no tags"},
                 Bad{"%TAG ! tag:x,2000:\n---\na: 1", "1:1", "%TAG"},
                 Bad{"a: {}\n<<: {b: 1}\n", "2:1", "no merge keys"},
                 Bad{"{<<: 1}", "1:2", "no merge keys"},
                 Bad{"a: 1\n---\nb: 1\n", "2:1", "one document"},
                 Bad{"---\n---\n", "2:1", "one document"},
                 Bad{"a:\n\tb: 1\n", "2:1", "spaces for indentation, got a tab"},
                 Bad{"\ta: 1\n", "1:1", "spaces for indentation, got a tab"},
                 Bad{"a:\n- \t- 1", "2:3", "spaces for indentation, got a tab"},
                 Bad{"a: 1\nb: 2\na: 3\n", "3:1", "each key once in a map, got 'a' again"},
                 Bad{"x:\n  'a': 1\n  a: 2\n", "3:3", "got 'a' again"},
                 Bad{"{a: 1, \"a\": 2}", "1:8", "got 'a' again"},
                 Bad{"[a]: 1", "1:1", "a key of one word or string, got a list"},
                 Bad{"? {a: 1}\n: 1", "1:3", "a key of one word or string, got a map"},
                 Bad{"?\n: 1", "1:2", "a key, got nothing"},
                 Bad{": 1", "1:1", "did not find expected key"},
                 Bad{"a: [1, 2", "2:1",
                     "expected YAML, got an error while parsing a flow sequence from 1:4: "},
                 Bad{"a: {b: 1\n", "2:1", "flow mapping from 1:4"},
                 Bad{"a: 'x", "1:6", "quoted scalar"},
                 Bad{"a: b: c", "1:5", "mapping values are not allowed"},
                 Bad{"a: 1\n  b: 2", "2:4", "not allowed"},
                 Bad{"a: @x", "1:4", "cannot start any token"},
                 Bad{"a: \"\\q\"", "1:5", "unknown escape"},
                 Bad{"- 1\nb: 2", "2:1", "did not find expected '-'"},
                 Bad{"a: .nan", "1:4", "a number, got .nan"},
                 Bad{"a: \xff", "1:4", "UTF-8"},
                 Bad{std::string("\377\376a\0", 4), "1:1", "UTF-8"},
                 Bad{std::string("a: 1\nb: \0x", 10), "2:4", "control characters"},
                 Bad{"a: \x1b[2J", "1:4", "control"},
                 Bad{repeated("[", 17), "1:17", "at most 16 levels"},
                 Bad{deep_block(17), "17:17", "at most 16 levels"},
                 Bad{repeated("[", 500'000), "1:17", "at most 16 levels"},
                 Bad{repeated("- ", 500'000), "1:33", "16 levels"},
                 Bad{repeated("? ", 500'000), "1:3", "got a map"},
                 Bad{repeated("{a: ", 200'000), "1:65", "16 levels"},
                 Bad{std::string("[") + repeated("1,", 10'000) + "]", "1:20000",
                     "at most 10000 keys and values"}});
}

TEST(Yaml, LimitsAreInclusive) {
  EXPECT_EQ(parse(repeated("[", 16) + repeated("]", 16)).dump(),
            repeated("[", 16) + repeated("]", 16));
  EXPECT_EQ(parse(std::string("[") + repeated("1,", 9'999) + "]").size(), 9'999u);
  const std::string largest =
      std::string("a: ") + std::string(static_cast<size_t>(kMaxYamlBytes) - 3, 'x');
  EXPECT_EQ(parse(largest)["a"].get<std::string>().size(), largest.size() - 3);
  EXPECT_EQ(error_of([&] { parse(largest + "x"); }).what(),
            std::string("t.yaml: expected at most 1048576 bytes, got 1048577"));
}

TEST(Yaml, MapKeepsWhatWasWrittenForKeysThatWantText) {
  SourceMap map;
  const json value = parse_yaml(
      "distributed_type: NO\nmixed_precision: 'no'\nrun: 1e5\n\xc3\xa4: {b: [x, 010]}\nc:\n  d: "
      "~\n",
      "t.yaml", ErrorKind::config, &map);
  EXPECT_EQ(value["distributed_type"], false);
  EXPECT_EQ(map.find("/distributed_type")->text, "NO");
  EXPECT_FALSE(map.find("/distributed_type")->quoted);
  EXPECT_EQ(value["mixed_precision"], "no");
  EXPECT_EQ(map.find("/mixed_precision")->text, "no");
  EXPECT_TRUE(map.find("/mixed_precision")->quoted);
  EXPECT_EQ(map.find("/run")->text, "1e5");
  EXPECT_EQ(map.find("/\xc3\xa4/b/1")->text, "010");
  EXPECT_EQ(map.where("/\xc3\xa4/b/1"), "t.yaml:4:12");
  EXPECT_EQ(map.where("/mixed_precision"), "t.yaml:2:1");
  EXPECT_EQ(map.where("/c/d"), "t.yaml:6:3");
  EXPECT_EQ(map.find("/c/d")->text, "~");
}

TEST(Yaml, LoadsFiles) {
  const TempDir dir;
  write_file_atomic(dir / "a.yaml", "a: NO\n");
  EXPECT_EQ(load_yaml(dir / "a.yaml"), json({{"a", false}}));
  EXPECT_EQ(error_of([&] { load_yaml(dir / "b.yaml"); }).kind(), ErrorKind::missing);
  write_file_atomic(dir / "a.yaml", std::string(static_cast<size_t>(kMaxYamlBytes) + 1, '#'));
  EXPECT_EQ(error_of([&] { load_yaml(dir / "a.yaml"); }).kind(), ErrorKind::config);
}

}  // namespace
}  // namespace pinion
