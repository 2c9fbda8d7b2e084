// SPDX-License-Identifier: Apache-2.0
// The strict JSON reader over nlohmann-json's event parser, which does not recurse.
#include "pinion/runtime/json.h"

#include <algorithm>
#include <cstring>

#include "pinion/runtime/fs.h"
#include "pinion/runtime/json_events.h"
#include "pinion/runtime/log.h"

namespace pinion {
namespace {

using nlohmann::json;

// A forward iterator that tells how far the parser has read.
struct Cursor {
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at = nullptr;
  size_t* consumed = nullptr;

  reference operator*() const { return *at; }
  Cursor& operator++() { return ++at, ++*consumed, *this; }
  Cursor operator++(int) {
    Cursor old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Cursor& other) const { return at == other.at; }
};

bool is_number_char(char c) { return (c >= '0' && c <= '9') || std::strchr("+-.eE", c) != nullptr; }

// Counts lines up to offsets that only grow.
class LineCounter {
 public:
  explicit LineCounter(std::string_view text) : text_(text) {}
  Place at(size_t offset) {
    for (; next_ < offset; ++next_) {
      const auto c = static_cast<unsigned char>(text_[next_]);
      if (c == '\n')
        place_ = {place_.line + 1, 1};
      else if ((c & 0xc0u) != 0x80u)  // not a later byte of a character
        ++place_.column;
    }
    return place_;
  }

 private:
  std::string_view text_;
  size_t next_ = 0;
  Place place_;
};

class TreeEvents final : public JsonEvents {
 public:
  TreeEvents(std::string_view text, std::string_view source, ErrorKind kind, SourceMap* map)
      : JsonEvents(text, source, kind), builder_(map, source), lines_(text), marked_(map) {}
  json take() { return builder_.take(); }

  bool null() override { return literal(nullptr, "null"); }
  bool boolean(bool value) override { return literal(value, value ? "true" : "false"); }
  bool number_integer(int64_t value) override { return number(value); }
  bool number_unsigned(uint64_t value) override { return number(value); }
  bool number_float(double value, const std::string& text) override {
    if (text.find_first_of(".eE") == std::string::npos)
      fail_at(number_begin(), {"expected an integer of at most 64 bits, got ", quoted(text, 40)});
    return number(value);
  }
  bool string(std::string& value) override {
    const Place place = marked_ ? lines_.at(string_begin()) : Place{};
    builder_.add_scalar(value, value, true, place);
    return true;
  }
  bool key(std::string& name) override {
    if (!builder_.add_key(name, marked_ ? lines_.at(string_begin()) : Place{}))
      fail_at(string_begin(),
              {"expected each key once in an object, got ", quoted(name, 80), " again"});
    return true;
  }
  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return builder_.close(), true; }
  bool end_array() override { return builder_.close(), true; }

 private:
  Place place_at(size_t offset) { return marked_ ? lines_.at(offset) : Place{}; }
  bool literal(json value, std::string_view text) {
    builder_.add_scalar(std::move(value), text, false, place_at(literal_begin(text.size())));
    return true;
  }
  bool number(json value) {
    if (!marked_) return builder_.add_scalar(std::move(value), {}, false, {}), true;
    const size_t begin = number_begin();
    size_t end = begin;
    while (end < text_.size() && is_number_char(text_[end])) ++end;
    builder_.add_scalar(std::move(value), text_.substr(begin, end - begin), false,
                        lines_.at(begin));
    return true;
  }
  bool open(json container) {
    const size_t begin = literal_begin(1);
    if (builder_.depth() >= kMaxJsonDepth)
      fail_at(begin, {"expected at most ", kMaxJsonDepth, " levels of nesting, got more"});
    builder_.open(std::move(container), place_at(begin));
    return true;
  }

  TreeBuilder builder_;
  LineCounter lines_;
  bool marked_;
};

}  // namespace

Place place_of(std::string_view text, size_t offset) {
  return LineCounter(text).at(std::min(offset, text.size()));
}

void JsonEvents::parse() {
  // The parser takes a NUL for the end of the text, and would not see what follows it.
  if (const size_t nul = text_.find('\0'); nul != std::string_view::npos)
    fail_at(nul, {"expected JSON text, got a NUL byte"});
  const char* const begin = text_.data();
  json::sax_parse(Cursor{begin, &consumed_}, Cursor{begin + text_.size(), &consumed_},
                  static_cast<nlohmann::json_sax<json>*>(this));
}

size_t JsonEvents::string_begin() const {
  for (size_t i = consumed_ - 1; i-- > 0;) {
    if (text_[i] != '"') continue;
    size_t backslashes = 0;
    while (backslashes < i && text_[i - 1 - backslashes] == '\\') ++backslashes;
    if (backslashes % 2 == 0) return i;
  }
  return 0;
}

size_t JsonEvents::number_begin() const {
  size_t end = consumed_;
  if (end > 0 && !is_number_char(text_[end - 1])) --end;  // read to see that the number is over
  while (end > 0 && is_number_char(text_[end - 1])) --end;
  return end;
}

void JsonEvents::fail_at(size_t offset, std::initializer_list<Part> parts) const {
  const Place place = place_of(text_, offset);
  throw Error(kind_, cat({source_, ":", place.line, ":", place.column, ": "}) + cat(parts));
}

bool JsonEvents::parse_error(size_t position, const std::string&,
                             const nlohmann::json::exception& error) {
  // Of "[json.exception.parse_error.101] parse error at line 1, column 2: reason" only the reason.
  std::string_view reason = error.what();
  if (const size_t id = reason.find("] "); id != std::string_view::npos)
    reason.remove_prefix(id + 2);
  if (reason.starts_with("parse error"))
    if (const size_t colon = reason.find(": "); colon != std::string_view::npos)
      reason.remove_prefix(colon + 2);
  std::string shown = escaped(reason.substr(0, 240));  // it may quote a string of any length
  if (reason.size() > 240) shown += "...";
  const size_t offset = position > 0 ? position - 1 : consumed_ > 0 ? consumed_ - 1 : 0;
  fail_at(offset, {"expected valid JSON, got ", shown});
}

bool TreeBuilder::add_key(std::string key, Place place) {
  if (map_) {
    path_.resize(frames_.back().path_length);
    path_ += '/';
    for (const char c : key) {
      if (c == '~' || c == '/')
        path_ += c == '~' ? "~0" : "~1";
      else
        path_ += c;
    }
  }
  auto& object = frames_.back().node->get_ref<json::object_t&>();
  const auto [at, fresh] = object.emplace(std::move(key), json());
  slot_ = &at->second;
  key_place_ = place;
  return fresh;
}

json* TreeBuilder::add(json value, SourceMap::Mark mark) {
  json* node = &root_;
  if (in_object()) {
    node = slot_;
    *node = std::move(value);
    mark.line = key_place_.line;
    mark.column = key_place_.column;
  } else if (!frames_.empty()) {
    auto& array = frames_.back().node->get_ref<json::array_t&>();
    if (map_) {
      path_.resize(frames_.back().path_length);
      path_ += '/' + std::to_string(array.size());
    }
    node = &array.emplace_back(std::move(value));
  } else {
    root_ = std::move(value);
  }
  if (map_) map_->add(path_, std::move(mark));
  return node;
}

void TreeBuilder::add_scalar(json value, std::string_view text, bool is_quoted, Place place) {
  SourceMap::Mark mark{place.line, place.column, {}, is_quoted};
  if (map_) mark.text = text;
  add(std::move(value), std::move(mark));
}

void TreeBuilder::open(json container, Place place) {
  json* node = add(std::move(container), {place.line, place.column, {}, false});
  frames_.push_back({node, path_.size()});
}

const SourceMap::Mark* SourceMap::find(std::string_view pointer) const {
  const auto at = marks_.find(pointer);
  return at == marks_.end() ? nullptr : &at->second;
}

std::string SourceMap::where(std::string_view pointer) const {
  for (;;) {
    if (const Mark* mark = find(pointer)) return cat({source_, ":", mark->line, ":", mark->column});
    const size_t slash = pointer.rfind('/');
    if (slash == std::string_view::npos) return source_;
    pointer = pointer.substr(0, slash);
  }
}

void SourceMap::reset(std::string_view source) {
  source_ = source;
  marks_.clear();
}

void SourceMap::add(std::string_view pointer, Mark mark) {
  marks_.insert_or_assign(std::string(pointer), std::move(mark));
}

json parse_json(std::string_view text, std::string_view source, ErrorKind kind, SourceMap* map) {
  TreeEvents events(text, source, kind, map);
  events.parse();
  return events.take();
}

json load_json(const std::string& path, int64_t max_bytes, ErrorKind kind, SourceMap* map) {
  return parse_json(read_file(path, max_bytes, kind), path, kind, map);
}

std::string json_quote(std::string_view text) {
  try {
    return json(text).dump();
  } catch (const json::exception&) {
    fail(ErrorKind::data, {"json: expected UTF-8 text, got ", quoted(text, 80)});
  }
}

}  // namespace pinion
