// SPDX-License-Identifier: Apache-2.0
// Strict JSON: at most 32 levels, no repeated keys, no NaN, valid UTF-8, integers that fit 64 bits.
// Errors read "file:line:column: what was expected, got what was found".
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "pinion/kernels/check.h"

namespace pinion {

// Where each value of a parsed JSON or YAML text stood and how it was spelt, by JSON pointer
// ("/model/layers/0", "" for the whole). Entries of objects stand where their key does.
//
// The spelling is what settles YAML's "NO": the bare word is the value false, and a reader whose
// key wants a string asks for the text that was written instead:
//   const SourceMap::Mark* mark = map.find("/distributed_type");   // mark->text == "NO"
class SourceMap {
 public:
  struct Mark {
    int line = 0;         // from 1
    int column = 0;       // from 1, in characters
    std::string text;     // of a scalar: a string's contents, else the characters as written
    bool quoted = false;  // a string between quotes, or a YAML block: never meant as another type
  };
  const Mark* find(std::string_view pointer) const;  // null when there is no such value
  // "file:line:column" of the value, or of its nearest enclosing one that is there.
  std::string where(std::string_view pointer) const;

  void reset(std::string_view source);  // for the parsers
  void add(std::string_view pointer, Mark mark);

 private:
  std::string source_;
  std::map<std::string, Mark, std::less<>> marks_;
};

inline constexpr int kMaxJsonDepth = 32;

// Parses `text`; `source` is the name that errors give it, `kind` is theirs, and `map`, when given,
// receives the places of all values.
nlohmann::json parse_json(std::string_view text, std::string_view source,
                          ErrorKind kind = ErrorKind::data, SourceMap* map = nullptr);
nlohmann::json load_json(const std::string& path, int64_t max_bytes,
                         ErrorKind kind = ErrorKind::data, SourceMap* map = nullptr);

// The text as a JSON string with its quotes. Throws Error (data) when it is not UTF-8.
std::string json_quote(std::string_view text);

}  // namespace pinion
