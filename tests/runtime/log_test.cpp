// SPDX-License-Identifier: Apache-2.0
// Log lines: their form, the level, the rank prefix, and that text from outside stays text.
#include "pinion/runtime/log.h"

#include <gmock/gmock.h>

#include <thread>

namespace pinion {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

class Log : public testing::Test {
 protected:
  void SetUp() override { set_log_level(LogLevel::info); }
  void TearDown() override {
    set_log_level(level_);
    set_log_rank(0, 1);
  }
  template <class F>
  static std::string printed(F&& call) {
    testing::internal::CaptureStderr();
    call();
    return testing::internal::GetCapturedStderr();
  }

 private:
  LogLevel level_ = log_level();
};

TEST_F(Log, LineHasTimeLevelAndText) {
  EXPECT_THAT(printed([] {
                log_info({"saved ", 3, " files"});
              }),
              MatchesRegex("20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]"
                           "\\.[0-9]{3}Z info saved 3 files\n"));
}

TEST_F(Log, LevelDecidesWhatIsPrinted) {
  const auto all = [] {
    log_debug({"d"});
    log_info({"i"});
    log_warn({"w"});
    log_error({"e"});
  };
  for (const int least : {0, 1, 2, 3}) {
    set_log_level(static_cast<LogLevel>(least));
    const std::string lines = printed(all);
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 4 - least);
    EXPECT_THAT(lines, HasSubstr("error e\n"));
    EXPECT_EQ(lines.find("warn w\n") != std::string::npos, least <= 2);
  }
}

TEST_F(Log, RankStandsInEveryLineOfAWorld) {
  set_log_rank(3, 4);
  EXPECT_THAT(printed([] { log_warn({"slow"}); }), HasSubstr("Z warn [rank 3] slow\n"));
  set_log_rank(0, 1);
  EXPECT_THAT(printed([] { log_warn({"slow"}); }), HasSubstr("Z warn slow\n"));
}

TEST_F(Log, TextCannotBreakTheLine) {
  EXPECT_THAT(printed([] {
                log_info({"a\nb\r\x1b[2J\x9b", std::string_view("\0", 1)});
              }),
              HasSubstr(" a\\nb\\r\\x1b[2J\\x9b\\x00\n"));
}

TEST_F(Log, LinesOfThreadsDoNotMix) {
  const std::string lines = printed([] {
    const auto work = [](char c) {
      for (int i = 0; i < 200; ++i) log_info({std::string(100, c)});
    };
    std::thread a(work, 'a'), b(work, 'b');
    a.join();
    b.join();
  });
  size_t count = 0;
  for (size_t at = 0; at < lines.size(); ++count) {
    const size_t end = lines.find('\n', at);
    ASSERT_NE(end, std::string::npos);
    EXPECT_THAT(lines.substr(at, end - at), MatchesRegex("[^ ]+ info (a{100}|b{100})"));
    at = end + 1;
  }
  EXPECT_EQ(count, 400u);
}

TEST(Escaped, KeepsUtf8AndSpellsTheRest) {
  const struct {
    std::string_view text, expected;
  } cases[] = {
      {"plain text", "plain text"},
      {"tab\there", "tab\\there"},
      {"\x7f", "\\x7f"},
      {"gr\xc3\xbc\xc3\x9f \xe4\xb8\xad \xf0\x9f\x99\x82",
       "gr\xc3\xbc\xc3\x9f \xe4\xb8\xad \xf0\x9f\x99\x82"},
      {"\xc2\x9b"
       "31m",
       "\\xc2\\x9b31m"},                             // U+009B opens a terminal command
      {"\xc2\xa0", "\xc2\xa0"},                      // the first character after the controls
      {"\xff\xfe", "\\xff\\xfe"},                    // never in UTF-8
      {"\xc0\xaf", "\\xc0\\xaf"},                    // overlong
      {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},           // overlong
      {"\xed\xa0\x80", "\\xed\\xa0\\x80"},           // a surrogate
      {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},  // beyond U+10FFFF
      {"\xe4\xb8", "\\xe4\\xb8"},                    // cut
  };
  for (const auto& c : cases) EXPECT_EQ(escaped(c.text), c.expected);
}

TEST(Quoted, ShowsTheBeginningOfLongText) {
  EXPECT_EQ(quoted("a'b\n"), "'a'b\\n'");
  EXPECT_EQ(quoted("abcdef", 6), "'abcdef'");
  EXPECT_EQ(quoted("abcdefg", 6), "'abcdef'...");
  EXPECT_EQ(quoted("ab\xe4\xb8\xad", 3), "'ab'...");  // not half a character
}

}  // namespace
}  // namespace pinion
