// SPDX-License-Identifier: Apache-2.0
// Text on a grid of columns: what progress bars, tables and reports share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pinion::accel {

enum class Align : uint8_t { left, right };

// Bytes of the UTF-8 character that text begins with; 0 when it begins with none.
size_t utf8_length(std::string_view text);
bool is_utf8(std::string_view text);
// Columns that valid UTF-8 takes on a terminal, counting every code point as one.
size_t columns_of(std::string_view text);
// At most `columns` columns of it; an ellipsis stands for what was cut off.
std::string clipped(std::string_view text, size_t columns);
std::string padded(std::string_view text, size_t columns, Align align);

// A number for people: four significant digits, "nan" and "inf" as such.
std::string short_number(double value);
// "0:07", "12:30", "3:05:09"
std::string duration(double seconds);
// "15.2 ms", "3.07 s", "12:30": how long something took
std::string elapsed(double seconds);
// 1234567 as "1,234,567"
std::string grouped(int64_t value);

}  // namespace pinion::accel
