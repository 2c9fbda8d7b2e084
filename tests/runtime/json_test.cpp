// SPDX-License-Identifier: Apache-2.0
// JSON: what is accepted, what is refused and where, and the places of values.
#include "pinion/runtime/json.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "pinion/tests/support/fs_testing.h"

namespace pinion {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

TEST(Json, AcceptsEveryKindOfValue) {
  const json value = parse_json(
      "\xEF\xBB\xBF {\"null\": null, \"yes\": true, \"no\": false, \"int\": "
      "-9223372036854775808,\r\n"
      "\"big\": 18446744073709551615, \"real\": -1.5e-3, \"text\": \"a\\u00e4\\ud83d\\ude42\\n\","
      "\"list\": [1, [], {}], \"\": {\"a\": {\"b\": 2}}}",
      "t.json");
  EXPECT_TRUE(value["null"].is_null());
  EXPECT_EQ(value["yes"], true);
  EXPECT_EQ(value["no"], false);
  EXPECT_EQ(value["int"].get<int64_t>(), INT64_MIN);
  EXPECT_EQ(value["big"].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(value["real"].get<double>(), -1.5e-3);
  EXPECT_EQ(value["text"], "a\xc3\xa4\xf0\x9f\x99\x82\n");
  EXPECT_EQ(value["list"], json::array({1, json::array(), json::object()}));
  EXPECT_EQ(value[""]["a"]["b"], 2);
  EXPECT_EQ(parse_json("3", "t"), 3);
}

struct Bad {
  std::string text;
  const char* place;  // of the error
  const char* what;
};

void check_refused(std::initializer_list<Bad> cases) {
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.what);
    const Error error = error_of([&] { parse_json(bad.text, "t.json"); });
    EXPECT_EQ(error.kind(), ErrorKind::data);
    EXPECT_THAT(error.what(), StartsWith(std::string("t.json:") + bad.place + ": expected "));
    EXPECT_THAT(error.what(), HasSubstr(bad.what));
    EXPECT_LT(strlen(error.what()), 500u);
  }
}

std::string nested(int depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(Json, BadTextIsRefusedWithItsPlace) {
  check_refused(
      {Bad{"", "1:1", "unexpected end of input"},
       Bad{"  \n ", "2:2", "unexpected end of input"},
       Bad{"{\"a\": 1", "1:8", "unexpected end of input"},
       Bad{"{\n  \"a\" 1}", "2:7", "expected ':'"},
       Bad{"[1,]", "1:4", "unexpected ']'"},
       Bad{"[1 2]", "1:4", "unexpected number literal"},
       Bad{"{} {}", "1:4", "expected end of input"},
       Bad{"{'a': 1}", "1:2", "invalid literal"},
       Bad{"[NaN]", "1:2", "invalid literal"},
       Bad{"[Infinity]", "1:2", "invalid literal"},
       Bad{"[01]", "1:3", "unexpected number literal"},
       Bad{"[+1]", "1:2", "invalid literal"},
       Bad{"// c\n1", "1:1", "invalid literal"},
       Bad{"[1e999]", "1:6", "number overflow"},
       Bad{"[1,\n 18446744073709551616]", "2:2", "integer of at most 64 bits"},
       Bad{"[-9223372036854775809]", "1:2", "integer of at most 64 bits"},
       Bad{"{\"a\": 1,\n \"b\": 2, \"a\": 3}", "2:10", "each key once in an object, got 'a' again"},
       Bad{"{\"x\": {\"\\\"\": 1, \"\\\"\": 2}}", "1:17", "got '\"' again"},
       Bad{"{\"\\u0061\": 1, \"a\": 2}", "1:15", "got 'a' again"},
       Bad{"\"\xff\"", "1:2", "ill-formed UTF-8"},
       Bad{"\"\xc0\xaf\"", "1:2", "ill-formed UTF-8"},
       Bad{"\"\xed\xa0\x80\"", "1:3", "ill-formed UTF-8"},
       Bad{"\"\\ud800\"", "1:8", "surrogate"},
       Bad{"\"\\udc00\"", "1:7", "surrogate"},
       Bad{"\"a\nb\"", "1:3", "control character"},
       Bad{std::string("{}\0x", 4), "1:3", "NUL"},
       Bad{std::string("\0", 1), "1:1", "NUL"},
       Bad{nested(33), "1:33", "at most 32 levels"},
       Bad{nested(100'000), "1:33", "32 levels"},
       Bad{std::string(100'000, '{'), "1:2", "expected string literal"},
       Bad{std::string("\"") + std::string(1'000'000, 'x') + "\xff\"", "1:1000002",
           "ill-formed UTF-8"},
       Bad{"{\"gr\xc3\xbc\xc3\x9f\": x}", "1:10", "invalid literal"}});
}

TEST(Json, DepthOfThirtyTwoIsAccepted) {
  EXPECT_EQ(parse_json(nested(32), "t").dump(), nested(32));
}

TEST(Json, ErrorKindIsTheCallers) {
  EXPECT_EQ(error_of([] { parse_json("{", "t", ErrorKind::config); }).kind(), ErrorKind::config);
  EXPECT_EQ(error_of([] { parse_json("[1,1e999]", "t", ErrorKind::config); }).kind(),
            ErrorKind::config);
}

TEST(Json, MapTellsPlacesAndSpellings) {
  SourceMap map;
  parse_json("{\n  \"a/b\": [1.50, \"x\"],\n  \"c\": {\"~\": null, \"d\": -7 }\n}", "t.json",
             ErrorKind::data, &map);
  EXPECT_EQ(map.where("/a~1b"), "t.json:2:3");
  EXPECT_EQ(map.where("/a~1b/0"), "t.json:2:11");
  EXPECT_EQ(map.find("/a~1b/0")->text, "1.50");
  EXPECT_FALSE(map.find("/a~1b/0")->quoted);
  EXPECT_EQ(map.where("/a~1b/1"), "t.json:2:17");
  EXPECT_EQ(map.find("/a~1b/1")->text, "x");
  EXPECT_TRUE(map.find("/a~1b/1")->quoted);
  EXPECT_EQ(map.where("/c"), "t.json:3:3");
  EXPECT_EQ(map.find("/c/~0")->text, "null");
  EXPECT_EQ(map.find("/c/d")->text, "-7");
  EXPECT_EQ(map.where("/c/d"), "t.json:3:20");
  EXPECT_EQ(map.where(""), "t.json:1:1");
  EXPECT_EQ(map.find("/none"), nullptr);
  EXPECT_EQ(map.where("/c/none/deeper"), "t.json:3:3");  // the nearest that is there
}

TEST(Json, LoadsFilesUpToALimit) {
  const TempDir dir;
  write_file_atomic(dir / "a.json", "[1]");
  EXPECT_EQ(load_json(dir / "a.json", 3), json::array({1}));
  EXPECT_EQ(error_of([&] { load_json(dir / "a.json", 2, ErrorKind::config); }).kind(),
            ErrorKind::config);
  EXPECT_EQ(error_of([&] { load_json(dir / "b.json", 2); }).kind(), ErrorKind::missing);
  write_file_atomic(dir / "a.json", "[1}");
  EXPECT_THAT(error_of([&] { load_json(dir / "a.json", 3); }).what(),
              StartsWith((dir / "a.json") + ":1:3: "));
}

TEST(Json, QuotesText) {
  EXPECT_EQ(json_quote("a\"\\\n\x01\xc3\xa4"), "\"a\\\"\\\\\\n\\u0001\xc3\xa4\"");
  EXPECT_EQ(error_of([] { json_quote("\xff"); }).kind(), ErrorKind::data);
}

}  // namespace
}  // namespace pinion
