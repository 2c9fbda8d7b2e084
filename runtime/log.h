// SPDX-License-Identifier: Apache-2.0
// Log lines on standard error, and the escaping that makes text from outside safe to print.
#pragma once

#include <string>
#include <string_view>

#include "pinion/kernels/check.h"

namespace pinion {

enum class LogLevel : uint8_t { debug, info, warn, error };

// The least level that is printed: at first the one that PINION_LOG (debug|info|warn|error) names,
// else info.
LogLevel log_level();
void set_log_level(LogLevel level);

// From now on every line carries "[rank 3]", so that the lines of several ranks can share a screen.
// A world of one rank has no prefix.
void set_log_rank(int rank, int world);

// One line in one write(2): "2026-01-31T12:00:00.123Z info [rank 3] saved run/model.safetensors".
// Control bytes in the text are escaped. Never throws: a log that cannot be written is dropped.
void log(LogLevel level, std::initializer_list<Part> parts) noexcept;
inline void log_debug(std::initializer_list<Part> parts) noexcept { log(LogLevel::debug, parts); }
inline void log_info(std::initializer_list<Part> parts) noexcept { log(LogLevel::info, parts); }
inline void log_warn(std::initializer_list<Part> parts) noexcept { log(LogLevel::warn, parts); }
inline void log_error(std::initializer_list<Part> parts) noexcept { log(LogLevel::error, parts); }

// The text with control characters and bytes that are not UTF-8 spelt \n, \t, \r or \x1b: it stays
// on its line and cannot steer a terminal. Other UTF-8 passes.
std::string escaped(std::string_view text);

// 'text', escaped, for messages; of a text longer than `limit` bytes only the beginning.
std::string quoted(std::string_view text, size_t limit = 512);

}  // namespace pinion
