// SPDX-License-Identifier: Apache-2.0
// Draws the bar and paces its own readings of the clock.
#include "pinion/accel/track/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "pinion/accel/track/text.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr int64_t kLookNs = 20'000'000;   // aim between two readings of the clock
constexpr int64_t kDrawNs = 100'000'000;  // least time between two drawings
constexpr int64_t kMaxStride = int64_t{1} << 30;
constexpr size_t kUsualWidth = 80;              // columns, where the terminal does not say
constexpr size_t kMostBar = 40, kLeastBar = 8;  // columns
constexpr std::string_view kEraseLine = "\r\x1b[K";

int64_t system_clock_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // progress is not worth an error
    text.remove_prefix(static_cast<size_t>(n));
  }
}

size_t width_of(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kUsualWidth;
}

// Whether the locale that the environment asks for writes UTF-8 (the order is POSIX's).
bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    return std::strstr(value, "UTF-8") != nullptr || std::strstr(value, "utf8") != nullptr;
  }
  return false;
}

bool is_dumb_terminal() {
  const char* term = std::getenv("TERM");
  return term == nullptr || std::string_view(term) == "dumb";
}

std::string bar_text(double share, size_t columns, bool utf8) {
  if (!utf8) {
    const auto full = static_cast<size_t>(share * static_cast<double>(columns));
    return std::string(full, '#') + std::string(columns - full, '-');
  }
  // Eighths of a column: U+2588 is full, U+258F is one eighth.
  const auto eighths = static_cast<size_t>(share * static_cast<double>(columns) * 8);
  std::string out;
  for (size_t c = 0; c < columns; ++c) {
    const size_t filled = std::min<size_t>(8, eighths > 8 * c ? eighths - 8 * c : 0);
    if (filled == 0) {
      out += ' ';
    } else {
      const char block[] = {'\xe2', '\x96', static_cast<char>(0x90 - filled), '\0'};
      out += block;
    }
  }
  return "▕" + out + "▏";
}

}  // namespace

Progress::Progress(std::string_view title, int64_t total, const Options& options)
    : title_(escaped(title)),
      total_(total),
      options_(options),
      loss_(std::numeric_limits<double>::quiet_NaN()) {
  if (options_.clock_ns == nullptr) options_.clock_ns = &system_clock_ns;
  if (options_.mode == ProgressMode::automatic)
    options_.mode =
        ::isatty(options_.fd) == 1 && !is_dumb_terminal() ? ProgressMode::bar : ProgressMode::lines;
  bar_ = options_.mode == ProgressMode::bar;
  utf8_ = bar_ && locale_is_utf8();
  if (options_.mode == ProgressMode::off) {
    until_look_ = std::numeric_limits<int64_t>::max();
    return;
  }
  started_ = looked_ = reported_ = options_.clock_ns();
}

void Progress::retitle(std::string_view title) {
  title_ = escaped(title);
  if (std::exchange(erased_, false)) draw(options_.clock_ns());
}

void Progress::look() {
  if (options_.mode == ProgressMode::off) {
    until_look_ = std::numeric_limits<int64_t>::max();
    return;
  }
  const int64_t now = options_.clock_ns();
  const int64_t passed = now - looked_;
  if (passed < kLookNs / 2)
    stride_ = std::min(stride_ * 2, kMaxStride);
  else if (passed > kLookNs * 2)
    stride_ = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(stride_) * kLookNs /
                                                        static_cast<double>(passed)));
  looked_ = now;
  until_look_ = stride_;
  const auto between = bar_ ? kDrawNs : static_cast<int64_t>(options_.seconds_between_lines * 1e9);
  if (now - reported_ < between) return;
  reported_ = now;
  bar_ ? draw(now) : write_line(now);
}

// "1234/5000 · 812 steps/s · 0:05 left · loss 0.4231"; what to leave out where there is little
// room.
std::string Progress::figures(int64_t now, bool with_counts, bool with_rate) const {
  const std::string dot = utf8_ ? " · " : ", ";
  const double seconds = std::max(1e-9, static_cast<double>(now - started_) * 1e-9);
  const double rate = static_cast<double>(done_) / seconds;
  std::string out;
  const auto add = [&](const std::string& figure) { out += (out.empty() ? "" : dot) + figure; };
  if (with_counts)
    add(total_ > 0 ? fmt::format("{}/{}", done_, total_) : fmt::format("{} steps", done_));
  if (with_rate) add(short_number(rate) + " steps/s");
  if (total_ > 0)
    add(duration(static_cast<double>(std::max<int64_t>(0, total_ - done_)) / rate) + " left");
  if (!std::isnan(loss_)) add("loss " + short_number(loss_));
  return out;
}

void Progress::draw(int64_t now) {
  // The last column stays free: some terminals wrap when it is written.
  const size_t room = std::max<size_t>(2, width_of(options_.fd)) - 1;
  const double share =
      total_ > 0 ? std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0)
                 : 0;
  std::string percent = total_ > 0 ? fmt::format("{:3.0f}%", std::floor(100 * share)) : "";
  std::string text = figures(now, true, true);
  const auto used = [&] { return columns_of(title_) + columns_of(percent) + columns_of(text) + 4; };
  const size_t bar = total_ > 0 ? kLeastBar + 3 : 0;
  if (used() + bar > room) text = figures(now, true, false);
  if (used() + bar > room) text = figures(now, false, false);
  std::string line = title_ + " ";
  if (total_ > 0 && used() + bar <= room)
    line += bar_text(share, std::min(kMostBar, room - used() - 3), utf8_) + " ";
  if (!percent.empty()) line += percent + "  ";
  line += text;
  if (columns_of(line) > room)  // too narrow for a title: the share alone
    line = clipped(percent.empty() ? std::to_string(done_) : percent, room);
  write_all(options_.fd, std::string(kEraseLine) + line);
  shown_ = true;
  erased_ = false;
}

void Progress::write_line(int64_t now) {
  std::string line = title_ + ": ";
  if (total_ > 0) line += fmt::format("{}%, ", done_ >= total_ ? 100 : 100 * done_ / total_);
  write_all(options_.fd, line + figures(now, true, true) + "\n");
}

void Progress::erase() {
  if (!shown_) return;
  write_all(options_.fd, kEraseLine);
  shown_ = false;
  erased_ = true;
}

void Progress::finish() {
  erase();
  erased_ = false;
  options_.mode = ProgressMode::off;
  until_look_ = std::numeric_limits<int64_t>::max();
}

}  // namespace pinion::accel
