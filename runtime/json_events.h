// SPDX-License-Identifier: Apache-2.0
// Internal to the readers of JSON: events of a text, with their places, and the builder that turns
// events into a tree. The parser is instantiated once, in json.cpp.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/runtime/json.h"

namespace pinion {

struct Place {
  int line = 1;
  int column = 1;
};
Place place_of(std::string_view text, size_t offset);

// Derive, override the events, call parse(). Syntax errors and fail_at() throw.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonEvents(std::string_view text, std::string_view source, ErrorKind kind)
      : text_(text), source_(source), kind_(kind) {}
  void parse();

 protected:
  // Where the token of the current event begins.
  size_t string_begin() const;
  size_t number_begin() const;
  size_t literal_begin(size_t length) const { return consumed_ - length; }
  [[noreturn]] void fail_at(size_t offset, std::initializer_list<Part> parts) const;

  const std::string_view text_;

 private:
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::json::exception& error) final;
  bool binary(binary_t&) final { return false; }  // no JSON text has one

  std::string_view source_;
  ErrorKind kind_;
  size_t consumed_ = 0;  // bytes that the parser has taken
};

// Grows a tree from events, watches for repeated keys, and fills a SourceMap where one is wanted.
class TreeBuilder {
 public:
  TreeBuilder(SourceMap* map, std::string_view source) : map_(map) {
    if (map_) map_->reset(source);
  }
  size_t depth() const { return frames_.size(); }
  bool in_object() const { return !frames_.empty() && frames_.back().node->is_object(); }
  bool add_key(std::string key, Place place);  // false: the object has this key already
  void add_scalar(nlohmann::json value, std::string_view text, bool quoted, Place place);
  void open(nlohmann::json container, Place place);  // an empty object or array
  void close() { frames_.pop_back(); }
  nlohmann::json take() { return std::move(root_); }

 private:
  struct Frame {
    nlohmann::json* node;
    size_t path_length;
  };
  nlohmann::json* add(nlohmann::json value, SourceMap::Mark mark);

  nlohmann::json root_;
  std::vector<Frame> frames_;
  nlohmann::json* slot_ = nullptr;  // of the key that awaits its value
  Place key_place_;
  std::string path_;  // JSON pointer of the current entry, kept only for a map
  SourceMap* map_;
};

}  // namespace pinion
