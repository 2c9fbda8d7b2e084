// SPDX-License-Identifier: Apache-2.0
// Measuring, cutting and padding text; numbers for people.
#include "pinion/accel/track/text.h"

#include <fmt/format.h>

#include <cmath>

namespace pinion::accel {

namespace {

bool starts_code_point(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

}  // namespace

size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Not the shortest form, half of a surrogate pair, above U+10FFFF.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f))
    return 0;
  return length;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

size_t columns_of(std::string_view text) {
  size_t n = 0;
  for (const char c : text) n += starts_code_point(c) ? 1 : 0;
  return n;
}

std::string clipped(std::string_view text, size_t columns) {
  if (columns_of(text) <= columns) return std::string(text);
  if (columns == 0) return {};
  size_t end = 0, seen = 0;
  for (; end < text.size(); ++end)
    if (starts_code_point(text[end]) && seen++ == columns - 1) break;
  return std::string(text.substr(0, end)) + "…";
}

std::string padded(std::string_view text, size_t columns, Align align) {
  const size_t have = columns_of(text);
  const std::string space(have < columns ? columns - have : 0, ' ');
  return align == Align::left ? std::string(text) + space : space + std::string(text);
}

std::string short_number(double value) {
  if (value != 0 && std::isfinite(value)) {
    const double size = std::fabs(value);
    if (size >= 1e6 || size < 1e-4) return fmt::format("{:.3e}", value);
    if (size >= 1000) return fmt::format("{:.0f}", value);
  }
  return fmt::format("{:.4g}", value);
}

std::string duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto s = std::llround(seconds);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string elapsed(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.3g} ms", seconds * 1e3);
  return seconds < 60 ? fmt::format("{:.3g} s", seconds) : duration(seconds);
}

std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  const int first = value < 0 ? 1 : 0;
  for (int at = static_cast<int>(digits.size()) - 3; at > first; at -= 3)
    digits.insert(static_cast<size_t>(at), 1, ',');
  return digits;
}

}  // namespace pinion::accel
