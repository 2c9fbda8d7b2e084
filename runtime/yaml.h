// SPDX-License-Identifier: Apache-2.0
// The YAML that configuration files need, as JSON values: block and flow maps and lists, plain and
// quoted scalars, comments, CRLF, a byte order mark, JSON text. Refused, with line and column:
// anchors, aliases, tags, merge keys, several documents, tabs as indentation, repeated keys, and
// more than 16 levels, 10 000 nodes or 1 MiB. An empty text is null.
//
// Plain scalars have the types of YAML 1.1: null (also ~ and nothing), booleans (true, yes, on and
// their opposites, in lower case, capitalised or in capitals), integers (decimal, 0x, 0b, octal
// with a leading 0, _ between digits), numbers with a point or an exponent, and .inf; .nan is
// refused. Numbers that do not fit 64 bits, times and dates stay strings. For a key that wants text
// whatever it looks like (a run named 1e5, a mode named NO), SourceMap keeps what was written.
#pragma once

#include "pinion/runtime/json.h"

namespace pinion {

inline constexpr int kMaxYamlDepth = 16;
inline constexpr int kMaxYamlNodes = 10000;
inline constexpr int64_t kMaxYamlBytes = 1 << 20;

// As parse_json(). Keys are strings, spelt as written.
nlohmann::json parse_yaml(std::string_view text, std::string_view source,
                          ErrorKind kind = ErrorKind::config, SourceMap* map = nullptr);
nlohmann::json load_yaml(const std::string& path, ErrorKind kind = ErrorKind::config,
                         SourceMap* map = nullptr);

}  // namespace pinion
