// SPDX-License-Identifier: Apache-2.0
// Formats log lines and hands each to the kernel in one piece.
#include "pinion/runtime/log.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace pinion {
namespace {

constexpr const char* kLevelNames[] = {"debug", "info", "warn", "error"};

std::atomic<int> current_rank{-1};  // below zero: no prefix

LogLevel level_from_environment() {
  const char* wanted = std::getenv("PINION_LOG");
  if (!wanted || !*wanted) return LogLevel::info;
  for (int i = 0; i < 4; ++i)
    if (std::string_view(wanted) == kLevelNames[i]) return static_cast<LogLevel>(i);
  std::fprintf(stderr, "PINION_LOG: expected debug, info, warn or error, got %s; using info\n",
               quoted(wanted).c_str());
  return LogLevel::info;
}

std::atomic<LogLevel>& level_state() {
  static std::atomic<LogLevel> level{level_from_environment()};
  return level;
}

void append_time(std::string& out) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char text[32];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  out.append(text, length);
  std::snprintf(text, sizeof text, ".%03dZ ", static_cast<int>(now.tv_nsec / 1000000));
  out += text;
}

// Bytes of the UTF-8 sequence that begins at text[at], or 0 where none does (Unicode 15, table
// 3-7).
size_t sequence_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned lead = byte(0), second = byte(1);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && second < 0xa0;
    const bool surrogate = lead == 0xed && second > 0x9f;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && second < 0x90;
    const bool beyond = lead == 0xf4 && second > 0x8f;
    return follows(1) && follows(2) && follows(3) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

void append_escaped_byte(std::string& out, unsigned char c) {
  switch (c) {
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    default:
      out += "\\x";
      out += "0123456789abcdef"[c >> 4];
      out += "0123456789abcdef"[c & 15];
  }
}

}  // namespace

LogLevel log_level() { return level_state().load(std::memory_order_relaxed); }
void set_log_level(LogLevel level) { level_state().store(level, std::memory_order_relaxed); }

void set_log_rank(int rank, int world) {
  current_rank.store(world > 1 ? rank : -1, std::memory_order_relaxed);
}

void log(LogLevel level, std::initializer_list<Part> parts) noexcept try {
  if (level < log_level()) return;
  std::string line;
  append_time(line);
  line += kLevelNames[static_cast<int>(level)];
  line += ' ';
  if (const int rank = current_rank.load(std::memory_order_relaxed); rank >= 0)
    line += cat({"[rank ", rank, "] "});
  line += escaped(cat(parts));
  line += '\n';
  const char* at = line.data();
  const char* const end = at + line.size();
  while (at < end) {  // more than once only after a signal or a short write to a pipe
    const ssize_t written = ::write(STDERR_FILENO, at, static_cast<size_t>(end - at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    at += written;
  }
} catch (...) {  // no memory for a log line is no reason to stop
}

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t length = sequence_length(text, i);
    // U+0080 to U+009F are control characters too: U+009B opens a terminal command as ESC [ does.
    const bool c1 = length == 2 && c == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (length == 0 || c < 0x20 || c == 0x7f) {
      append_escaped_byte(out, c);
      ++i;
    } else if (c1) {
      append_escaped_byte(out, c);
      append_escaped_byte(out, static_cast<unsigned char>(text[i + 1]));
      i += 2;
    } else {
      out.append(text, i, length);
      i += length;
    }
  }
  return out;
}

std::string quoted(std::string_view text, size_t limit) {
  const bool cut = text.size() > limit;
  if (cut)  // not inside a character
    while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0u) == 0x80u) --limit;
  std::string out = "'";
  out += escaped(text.substr(0, limit));
  out += cut ? "'..." : "'";
  return out;
}

}  // namespace pinion
