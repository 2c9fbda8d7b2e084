// SPDX-License-Identifier: Apache-2.0
// The progress bar on a pseudo-terminal, and lines in a pipe, under a clock that the test moves.
#include "pinion/accel/track/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <string>

#include "pinion/accel/track/text.h"

namespace pinion::accel {
namespace {

using testing::HasSubstr;

int64_t now_ns = 0;
int clock_reads = 0;
int64_t fake_clock() { return ++clock_reads, now_ns; }

// Two ends of a channel whose writing end is `in`; reading never waits.
struct Channel {
  int in = -1, out = -1;
  Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel() { ::close(in), ::close(out); }
  std::string text() const {
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = ::read(out, buffer, sizeof buffer)) > 0;)
      all.append(buffer, static_cast<size_t>(n));
    return all;
  }
};

struct Pipe : Channel {
  Pipe() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_NONBLOCK), 0);
    out = ends[0], in = ends[1];
  }
};

struct Terminal : Channel {
  explicit Terminal(unsigned short columns) {
    out = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (out < 0 || ::grantpt(out) != 0 || ::unlockpt(out) != 0) return;
    in = ::open(::ptsname(out), O_RDWR | O_NOCTTY);
    if (in >= 0) resize(columns);
  }
  void resize(unsigned short columns) const {
    const winsize size{24, columns, 0, 0};
    EXPECT_EQ(::ioctl(out, TIOCSWINSZ, &size), 0);
  }
};

class ProgressTest : public testing::Test {
 protected:
  ProgressTest() {
    now_ns = 0, clock_reads = 0;
    ::setenv("LC_ALL", "C.UTF-8", 1);
    ::setenv("TERM", "xterm", 1);
  }
  ~ProgressTest() override { ::unsetenv("LC_ALL"); }

  static Progress::Options options(const Channel& channel,
                                   ProgressMode mode = ProgressMode::automatic) {
    return {.mode = mode, .fd = channel.in, .seconds_between_lines = 10, .clock_ns = &fake_clock};
  }
  // The drawings in what a terminal got: what stands between two erasures.
  static std::vector<std::string> drawings(const std::string& text) {
    constexpr std::string_view kErase = "\r\x1b[K";
    std::vector<std::string> out;
    for (size_t at = text.find(kErase); at != text.npos;) {
      const size_t begin = at + kErase.size();
      at = text.find(kErase, begin);
      out.push_back(text.substr(begin, at == text.npos ? at : at - begin));
    }
    return out;
  }
};

class TerminalTest : public ProgressTest {
  void SetUp() override {
    if (Terminal(80).in < 0) GTEST_SKIP() << "this system gives no pseudo-terminal (/dev/pts)";
  }
};

TEST_F(TerminalTest, DrawsAtMostTenTimesASecondAndNeverScrolls) {
  const Terminal terminal(100);
  std::string text;
  {
    Progress progress("Epoch 1/5", 5000, options(terminal));
    for (int i = 0; i < 5000; ++i) {
      now_ns += 1'000'000;
      progress.step(1.0 / (1 + i));
      text += terminal.text();
    }
  }
  text += terminal.text();
  const auto shown = drawings(text);
  EXPECT_GE(shown.size(), 30u);
  EXPECT_LE(shown.size(), 51u);
  EXPECT_EQ(text.find('\n'), text.npos);
  EXPECT_EQ(shown.back(), "");  // the line is free again
  const std::string& middle = shown[shown.size() / 2];
  EXPECT_THAT(middle, HasSubstr("Epoch 1/5"));
  EXPECT_THAT(middle, HasSubstr("/5000"));
  EXPECT_THAT(middle, HasSubstr("1000 steps/s"));
  EXPECT_THAT(middle, HasSubstr("left"));
  EXPECT_THAT(middle, HasSubstr("loss"));
  EXPECT_THAT(middle, HasSubstr("█"));
}

TEST_F(TerminalTest, FitsEveryWidthAndFollowsIt) {
  const Terminal terminal(80);
  Progress progress("Epoch 12/500", 100000, options(terminal));
  for (unsigned short columns = 130; columns >= 2; --columns) {
    terminal.resize(columns);
    now_ns += 200'000'000;
    // Enough steps that one of them looks at the clock.
    for (int i = 0; i < 64; ++i) progress.step(0.123456);
    for (const std::string& line : drawings(terminal.text()))
      ASSERT_LT(columns_of(line), columns) << "'" << line << "'";
  }
}

TEST_F(ProgressTest, ReadsTheClockRarely) {
  const Pipe pipe;
  Progress progress("", 1'000'000, options(pipe, ProgressMode::lines));
  for (int i = 0; i < 1'000'000; ++i) {
    now_ns += 1000;  // a second in all
    progress.step(0.5);
  }
  EXPECT_LE(clock_reads, 150);
  EXPECT_GE(clock_reads, 20);
}

TEST_F(TerminalTest, ShowsNothingOfAShortLoop) {
  const Terminal terminal(80);
  {
    Progress progress("Epoch 1/5", 32, options(terminal));
    for (int i = 0; i < 32; ++i) now_ns += 1000, progress.step();
  }
  EXPECT_EQ(terminal.text(), "");
}

TEST_F(ProgressTest, WritesLinesWhereThereIsNoTerminal) {
  const Pipe pipe;
  {
    Progress progress("Epoch 2/5", 3600, options(pipe));
    for (int i = 0; i < 36; ++i) {
      now_ns += 1'000'000'000;
      progress.step(0.25);
    }
  }
  EXPECT_EQ(pipe.text(),
            "Epoch 2/5: 0%, 10/3600, 1 steps/s, 59:50 left, loss 0.25\n"
            "Epoch 2/5: 0%, 20/3600, 1 steps/s, 59:40 left, loss 0.25\n"
            "Epoch 2/5: 0%, 30/3600, 1 steps/s, 59:30 left, loss 0.25\n");
}

TEST_F(TerminalTest, DoesWithoutATotalAndWithoutUtf8) {
  ::setenv("LC_ALL", "C", 1);
  const Terminal terminal(60);
  Progress unknown("scan\x1b[2J", 0, options(terminal));
  for (int i = 0; i < 2; ++i) now_ns += 500'000'000, unknown.step();
  const std::string text = terminal.text();
  EXPECT_THAT(text, HasSubstr("scan\\x1b[2J 2 steps, 2 steps/s"));
  EXPECT_EQ(text.find("left"), text.npos);
  Progress plain("p", 4, options(terminal));
  for (int i = 0; i < 2; ++i) now_ns += 500'000'000, plain.step();
  EXPECT_THAT(terminal.text(), HasSubstr("##"));
}

TEST_F(TerminalTest, OffIsSilentAndNeverReadsTheClock) {
  const Terminal terminal(80);
  Progress progress("a", 10, options(terminal, ProgressMode::off));
  progress.retitle("b");
  for (int i = 0; i < 1000; ++i) now_ns += 1'000'000'000, progress.step(1);
  EXPECT_EQ(terminal.text(), "");
  EXPECT_EQ(clock_reads, 0);
}

TEST_F(TerminalTest, EraseLeavesTheLineFreeAndRetitlePutsTheBarBack) {
  const Terminal terminal(80);
  Progress progress("first", 20, options(terminal));
  progress.retitle("early");
  progress.erase();
  progress.retitle("first");
  EXPECT_EQ(terminal.text(), "");  // nothing was shown, so nothing comes back
  for (int i = 0; i < 10; ++i) now_ns += 1'000'000'000, progress.step();
  EXPECT_THAT(drawings(terminal.text()).back(), HasSubstr("first"));
  progress.erase();
  EXPECT_EQ(drawings(terminal.text()), std::vector<std::string>{""});
  progress.erase();
  EXPECT_EQ(terminal.text(), "");
  progress.retitle("second");
  auto shown = drawings(terminal.text());
  ASSERT_EQ(shown.size(), 1u);
  EXPECT_THAT(shown[0], HasSubstr("second"));
  EXPECT_THAT(shown[0], HasSubstr("10/20"));
  progress.retitle("third");
  EXPECT_EQ(terminal.text(), "");
  for (int i = 0; i < 5; ++i) now_ns += 1'000'000'000, progress.step();
  shown = drawings(terminal.text());
  ASSERT_FALSE(shown.empty());
  EXPECT_THAT(shown.back(), HasSubstr("third"));
  EXPECT_THAT(shown.back(), HasSubstr("15/20"));
  progress.erase();
  progress.finish();
  progress.retitle("fourth");
  EXPECT_EQ(drawings(terminal.text()), std::vector<std::string>{""});
}

TEST(Text, CountsCutsAndPads) {
  EXPECT_EQ(columns_of("größe"), 5u);
  EXPECT_EQ(clipped("größe", 5), "größe");
  EXPECT_EQ(clipped("größe", 4), "grö…");
  EXPECT_EQ(clipped("abc", 0), "");
  EXPECT_EQ(padded("ö", 3, Align::right), "  ö");
  EXPECT_EQ(padded("abcd", 3, Align::left), "abcd");
  EXPECT_TRUE(is_utf8("aé€😀"));
  for (const char* bad : {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\x80"})
    EXPECT_FALSE(is_utf8(bad));
}

TEST(Text, WritesNumbersForPeople) {
  EXPECT_EQ(short_number(0.49796), "0.498");
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(12345.6), "12346");
  EXPECT_EQ(short_number(2.5e7), "2.500e+07");
  EXPECT_EQ(short_number(-1e-9), "-1.000e-09");
  EXPECT_EQ(elapsed(12e-6), "12 us");
  EXPECT_EQ(elapsed(0.0015223), "1.52 ms");
  EXPECT_EQ(elapsed(3.07), "3.07 s");
  EXPECT_EQ(elapsed(75), "1:15");
  EXPECT_EQ(elapsed(-1), "?");
  EXPECT_EQ(short_number(std::nan("")), "nan");
  EXPECT_EQ(duration(7.4), "0:07");
  EXPECT_EQ(duration(3 * 3600 + 5 * 60 + 9), "3:05:09");
  EXPECT_EQ(duration(INFINITY), "?");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(grouped(-1234), "-1,234");
}

}  // namespace
}  // namespace pinion::accel
