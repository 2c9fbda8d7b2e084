// SPDX-License-Identifier: Apache-2.0
// Turns libyaml's events into a tree, and refuses what a configuration file has no need of.
#include "pinion/runtime/yaml.h"

#include <yaml.h>

#include <charconv>
#include <limits>
#include <optional>

#include "pinion/runtime/checked.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/json_events.h"
#include "pinion/runtime/log.h"

namespace pinion {
namespace {

using nlohmann::json;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Reads digits of `base` with _ between them; nothing when there are other characters or none.
std::optional<uint64_t> parse_digits(std::string_view text, uint64_t base, bool& fits) {
  uint64_t value = 0;
  bool any = false;
  for (const char c : text) {
    if (c == '_') continue;
    const uint64_t digit = is_digit(c)            ? static_cast<uint64_t>(c - '0')
                           : c >= 'a' && c <= 'f' ? static_cast<uint64_t>(c - 'a' + 10)
                           : c >= 'A' && c <= 'F' ? static_cast<uint64_t>(c - 'A' + 10)
                                                  : base;
    if (digit >= base) return std::nullopt;
    any = true;
    fits = fits && checked_mul(value, base, value) && checked_add(value, digit, value);
  }
  return any ? std::optional(value) : std::nullopt;
}

std::optional<json> parse_integer(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.empty() || !is_digit(text[0])) return std::nullopt;
  uint64_t base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.starts_with("0b")) {
    base = 2;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  bool fits = true;
  const std::optional<uint64_t> magnitude = parse_digits(text, base, fits);
  constexpr uint64_t kTop = uint64_t{1} << 63;
  if (!magnitude || !fits || (negative && *magnitude > kTop)) return std::nullopt;
  if (negative) return json(static_cast<int64_t>(0 - *magnitude));
  return *magnitude < kTop ? json(static_cast<int64_t>(*magnitude)) : json(*magnitude);
}

// [sign] digits [. digits] [e [sign] digits], with a point or an exponent, with _ between digits.
std::optional<json> parse_real(std::string_view text) {
  std::string plain;  // what from_chars reads: no plus sign, no _
  size_t i = 0;
  const auto digits = [&] {
    size_t count = 0;
    for (; i < text.size() && (is_digit(text[i]) || (text[i] == '_' && count > 0)); ++i)
      if (text[i] != '_') plain += text[i], ++count;
    return count;
  };
  if (i < text.size() && (text[i] == '-' || text[i] == '+'))
    if (text[i++] == '-') plain += '-';
  size_t mantissa = digits();
  const bool point = i < text.size() && text[i] == '.';
  if (point) {
    plain += text[i++];
    mantissa += digits();
  }
  const bool exponent = i < text.size() && (text[i] == 'e' || text[i] == 'E');
  if (mantissa == 0 || (!point && !exponent)) return std::nullopt;
  if (exponent) {
    plain += text[i++];
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) plain += text[i++];
    if (digits() == 0) return std::nullopt;
  }
  if (i != text.size()) return std::nullopt;
  double value = 0;
  const auto result = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return json(value);
}

// True for `word` in lower case, capitalised or in capitals.
bool is_word(std::string_view text, std::string_view word) {
  if (text.size() != word.size()) return false;
  const auto upper = [](char c) { return static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c); };
  bool lower_case = true, capitalised = true, capitals = true;
  for (size_t i = 0; i < text.size(); ++i) {
    lower_case &= text[i] == word[i];
    capitalised &= text[i] == (i == 0 ? upper(word[i]) : word[i]);
    capitals &= text[i] == upper(word[i]);
  }
  return lower_case || capitalised || capitals;
}

bool is_nan(std::string_view text) { return text == ".nan" || text == ".NaN" || text == ".NAN"; }

json plain_value(std::string_view text) {
  if (text.empty() || text == "~" || is_word(text, "null")) return nullptr;
  for (const char* word : {"true", "yes", "on"})
    if (is_word(text, word)) return true;
  for (const char* word : {"false", "no", "off"})
    if (is_word(text, word)) return false;
  if (auto integer = parse_integer(text)) return *integer;
  if (auto real = parse_real(text)) return *real;
  const bool negative = text[0] == '-';
  const std::string_view unsigned_text = text.substr(negative || text[0] == '+' ? 1 : 0);
  if (unsigned_text == ".inf" || unsigned_text == ".Inf" || unsigned_text == ".INF")
    return (negative ? -1 : 1) * std::numeric_limits<double>::infinity();
  return text;
}

struct Event : yaml_event_t {
  Event() : yaml_event_t{} {}
  ~Event() { yaml_event_delete(this); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

class YamlParser {
 public:
  YamlParser(std::string_view text, std::string_view source, ErrorKind kind, SourceMap* map)
      : text_(text), source_(source), kind_(kind), builder_(map, source) {
    PINION_REQUIRE(out_of_memory, yaml_parser_initialize(&parser_) != 0,
                   "yaml: expected memory for a parser, got none");
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()),
                                 text.size());
  }
  ~YamlParser() { yaml_parser_delete(&parser_); }
  YamlParser(const YamlParser&) = delete;
  YamlParser& operator=(const YamlParser&) = delete;

  json parse() {
    for (;;) {
      Event event;
      if (!yaml_parser_parse(&parser_, &event)) fail_syntax();
      if (event.type == YAML_STREAM_END_EVENT) return builder_.take();
      take(event);
    }
  }

 private:
  void take(const Event& event) {
    const yaml_mark_t& mark = event.start_mark;
    switch (event.type) {
      case YAML_DOCUMENT_START_EVENT:
        if (documents_++ > 0) fail_at(mark, {"expected one document, got a second one"});
        if (event.data.document_start.tag_directives.start !=
            event.data.document_start.tag_directives.end)
          fail_at(mark, {"expected no tags, got a %TAG directive"});
        return;
      case YAML_ALIAS_EVENT:
        fail_at(mark,
                {"expected no aliases, got ", quoted(view("*", event.data.alias.anchor), 40)});
      case YAML_SCALAR_EVENT: return take_scalar(event);
      case YAML_SEQUENCE_START_EVENT:
        check_properties(mark, event.data.sequence_start.anchor, event.data.sequence_start.tag);
        return open(json::array(), mark, "a list");
      case YAML_MAPPING_START_EVENT:
        check_properties(mark, event.data.mapping_start.anchor, event.data.mapping_start.tag);
        return open(json::object(), mark, "a map");
      case YAML_SEQUENCE_END_EVENT:
      case YAML_MAPPING_END_EVENT:
        builder_.close();
        have_key_ = false;
        return;
      default: return;
    }
  }

  void take_scalar(const Event& event) {
    const auto& scalar = event.data.scalar;
    const yaml_mark_t& mark = event.start_mark;
    check_properties(mark, scalar.anchor, scalar.tag);
    count_node(mark);
    const std::string_view text(reinterpret_cast<const char*>(scalar.value), scalar.length);
    const bool plain = scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (builder_.in_object() && !have_key_) {
      if (plain && text == "<<") fail_at(mark, {"expected no merge keys, got '<<'"});
      if (plain && text.empty()) fail_at(mark, {"expected a key, got nothing"});
      if (!builder_.add_key(std::string(text), place_of_mark(mark)))
        fail_at(mark, {"expected each key once in a map, got ", quoted(text, 80), " again"});
      have_key_ = true;
      return;
    }
    if (plain && is_nan(text)) fail_at(mark, {"expected a number, got ", text});
    builder_.add_scalar(plain ? plain_value(text) : json(text), text, !plain, place_of_mark(mark));
    have_key_ = false;
  }

  void open(json container, const yaml_mark_t& mark, const char* what) {
    count_node(mark);
    if (builder_.in_object() && !have_key_)
      fail_at(mark, {"expected a key of one word or string, got ", what});
    if (builder_.depth() >= kMaxYamlDepth)
      fail_at(mark, {"expected at most ", kMaxYamlDepth, " levels of nesting, got more"});
    builder_.open(std::move(container), place_of_mark(mark));
    have_key_ = false;
  }

  void count_node(const yaml_mark_t& mark) {
    if (++nodes_ > kMaxYamlNodes)
      fail_at(mark, {"expected at most ", kMaxYamlNodes, " keys and values, got more"});
  }

  void check_properties(const yaml_mark_t& mark, const yaml_char_t* anchor,
                        const yaml_char_t* tag) {
    if (anchor) fail_at(mark, {"expected no anchors, got ", quoted(view("&", anchor), 40)});
    // libyaml keeps the tag "!" to itself.
    if (tag || char_at(mark.index) == '!')
      fail_at(mark, {"expected no tags, got ", quoted(tag ? view("", tag) : "!", 40)});
  }

  static std::string view(const char* sign, const yaml_char_t* name) {
    return std::string(sign) + reinterpret_cast<const char*>(name);
  }

  // The first byte of a character, by libyaml's count of characters, which grows with the events.
  char char_at(size_t index) {
    if (index < char_index_) char_index_ = byte_index_ = 0;
    while (char_index_ < index && byte_index_ < text_.size()) {
      do ++byte_index_;
      while (byte_index_ < text_.size() &&
             (static_cast<unsigned char>(text_[byte_index_]) & 0xc0u) == 0x80u);
      ++char_index_;
    }
    return byte_index_ < text_.size() ? text_[byte_index_] : '\0';
  }

  static Place place_of_mark(const yaml_mark_t& mark) {
    return {static_cast<int>(mark.line) + 1, static_cast<int>(mark.column) + 1};
  }
  [[noreturn]] void fail_place(Place place, std::initializer_list<Part> parts) {
    throw Error(kind_, cat({source_, ":", place.line, ":", place.column, ": "}) + cat(parts));
  }
  [[noreturn]] void fail_at(const yaml_mark_t& mark, std::initializer_list<Part> parts) {
    fail_place(place_of_mark(mark), parts);
  }

  [[noreturn]] void fail_syntax() {
    const std::string_view problem = parser_.problem ? parser_.problem : "an unknown problem";
    switch (parser_.error) {
      case YAML_MEMORY_ERROR:
        fail(ErrorKind::out_of_memory, {"yaml: expected memory for ", source_, ", got none"});
      case YAML_READER_ERROR:
        fail_place(pinion::place_of(text_, parser_.problem_offset),
                   {"expected printable UTF-8 text, got ", problem});
      default: break;
    }
    const yaml_mark_t& mark = parser_.problem_mark;
    if (char_at(mark.index) == '\t') fail_at(mark, {"expected spaces for indentation, got a tab"});
    std::string context;
    if (parser_.context) {
      const Place from = place_of_mark(parser_.context_mark);
      context = cat({" ", parser_.context, " from ", from.line, ":", from.column});
    }
    fail_at(mark, {"expected YAML, got an error", context, ": ", problem});
  }

  std::string_view text_;
  std::string_view source_;
  ErrorKind kind_;
  TreeBuilder builder_;
  yaml_parser_t parser_;
  int documents_ = 0;
  int nodes_ = 0;
  bool have_key_ = false;  // of a map whose value comes next
  size_t char_index_ = 0;
  size_t byte_index_ = 0;
};

}  // namespace

json parse_yaml(std::string_view text, std::string_view source, ErrorKind kind, SourceMap* map) {
  if (text.size() > static_cast<size_t>(kMaxYamlBytes))
    throw Error(kind,
                cat({source, ": expected at most ", kMaxYamlBytes, " bytes, got ", text.size()}));
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark
  return YamlParser(text, source, kind, map).parse();
}

json load_yaml(const std::string& path, ErrorKind kind, SourceMap* map) {
  return parse_yaml(read_file(path, kMaxYamlBytes, kind), path, kind, map);
}

}  // namespace pinion
