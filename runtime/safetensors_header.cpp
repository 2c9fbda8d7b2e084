// SPDX-License-Identifier: Apache-2.0
// Parses and checks the header of a safetensors file. Nothing of it is believed: sizes are computed
// without wrapping, and the entries must tile the data part exactly.
#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "pinion/runtime/checked.h"
#include "pinion/runtime/json_events.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/safetensors.h"

namespace pinion {
namespace {

constexpr uint64_t kLengthBytes = 8;

struct FileType {
  const char* name;
  uint64_t bits;
};
constexpr FileType kFileTypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

const FileType* find_type(std::string_view name) {
  for (const FileType& type : kFileTypes)
    if (name == type.name) return &type;
  return nullptr;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Collects the entries. Checks the form of the header here; sizes and offsets afterwards.
class HeaderEvents final : public JsonEvents {
 public:
  HeaderEvents(std::string_view text, std::string_view source, SafetensorsMode mode)
      : JsonEvents(text, source, ErrorKind::data), mode_(mode) {}

  std::vector<SafetensorsEntry> entries;
  SafetensorsMetadata metadata;

  bool null() override { return other(literal_begin(4), "null"); }
  bool boolean(bool value) override {
    return other(literal_begin(value ? 4 : 5), value ? "true" : "false");
  }
  bool number_integer(int64_t value) override {  // only of texts with a minus sign
    return other(number_begin(), std::to_string(value));
  }
  bool number_unsigned(uint64_t value) override {
    if (at_ != At::shape && at_ != At::offsets) return other(number_begin(), std::to_string(value));
    if (at_ == At::offsets) {
      if (offsets_.size() == 2) fail_at(number_begin(), {expected(), ", got more than two"});
      offsets_.push_back(value);
      return true;
    }
    int64_t extent = 0;
    if (!checked_cast(value, extent)) fail_at(number_begin(), {expected(), ", got ", value});
    if (entries.back().shape.size() == kMaxSafetensorsRank)
      fail_at(number_begin(), {"expected at most ", kMaxSafetensorsRank, " dimensions in ",
                               entry_name(), ", got more"});
    entries.back().shape.push_back(extent);
    return true;
  }
  bool number_float(double, const std::string& text) override {
    return other(number_begin(), quoted(text, 40));
  }

  bool string(std::string& value) override {
    if (at_ == At::metadata) {
      const bool fresh = metadata.emplace(field_, value).second;
      if (!fresh) fail_repeated("each key of __metadata__", field_);
      return true;
    }
    if (at_ != At::entry || field_ != "dtype")
      return other(string_begin(), "the string " + quoted(value, 40));
    const FileType* type = find_type(value);
    if (!type)
      fail_at(string_begin(),
              {"expected a dtype of the format for ", entry_name(), ", got ", quoted(value, 40)});
    entries.back().dtype = type->name;
    return true;
  }

  bool key(std::string& name) override {
    if (at_ == At::skipped) return true;
    if (at_ == At::entry) return entry_key(name), true;
    field_ = name;
    if (at_ == At::metadata) return true;
    if (name.size() > kMaxSafetensorsName)
      fail_at(string_begin(), {"expected names of at most ", kMaxSafetensorsName,
                               " bytes, got one of ", name.size(), ": ", quoted(name, 40)});
    if (!names_.insert(name).second) fail_repeated("each tensor", name);
    return true;
  }

  bool start_object(size_t) override {
    switch (at_) {
      case At::outside: at_ = At::top; return true;
      case At::top:
        if (field_ == "__metadata__") return at_ = At::metadata, true;
        if (entries.size() == kMaxSafetensorsTensors)
          fail_at(literal_begin(1),
                  {"expected at most ", kMaxSafetensorsTensors, " tensors, got more"});
        entries.push_back({field_, nullptr, {}, 0, 0});
        seen_ = 0;
        at_ = At::entry;
        return true;
      default: return container("an object");
    }
  }
  bool end_object() override {
    switch (at_) {
      case At::skipped: return leave_skipped();
      case At::entry:
        for (int i = 0; i < 3; ++i)
          if (!(seen_ & (1 << i)))
            fail_at(literal_begin(1), {"expected the field ", kFields[i], " in ", entry_name(),
                                       ", got an entry without it"});
        at_ = At::top;
        return true;
      case At::metadata: at_ = At::top; return true;
      default: return true;
    }
  }
  bool start_array(size_t) override {
    if (at_ == At::entry && field_ == "shape") return at_ = At::shape, true;
    if (at_ == At::entry && field_ == "data_offsets") {
      offsets_.clear();
      at_ = At::offsets;
      return true;
    }
    return container("an array");
  }
  bool end_array() override {
    if (at_ == At::skipped) return leave_skipped();
    if (at_ == At::offsets) take_offsets();
    at_ = At::entry;
    return true;
  }

 private:
  enum class At : uint8_t { outside, top, metadata, entry, shape, offsets, skipped };
  static constexpr const char* kFields[] = {"dtype", "shape", "data_offsets"};

  std::string entry_name() const { return "tensor " + quoted(entries.back().name, 120); }

  std::string expected() const {
    switch (at_) {
      case At::outside: return "expected a JSON object";
      case At::top:
        return field_ == "__metadata__" ? "expected an object of strings as __metadata__"
                                        : "expected an object for tensor " + quoted(field_, 120);
      case At::metadata: return "expected strings in __metadata__ for key " + quoted(field_, 120);
      case At::shape: return "expected extents from 0 to 2^63-1 in the shape of " + entry_name();
      case At::offsets: return "expected two offsets >= 0 as data_offsets of " + entry_name();
      default:
        return cat({"expected ", field_ == "dtype" ? "a string" : "an array of integers", " as ",
                    field_, " of ", entry_name()});
    }
  }

  // A value that has no place here, unless it belongs to an unknown field of the compat mode.
  bool other(size_t offset, const std::string& got) {
    if (at_ == At::skipped || is_unknown_field()) return true;
    fail_at(offset, {expected(), ", got ", got});
  }
  bool container(const char* got) {
    if (at_ != At::skipped && !is_unknown_field())
      fail_at(literal_begin(1), {expected(), ", got ", got});
    if (++skipped_levels_ > kMaxJsonDepth)
      fail_at(literal_begin(1),
              {"expected at most ", kMaxJsonDepth, " levels of nesting, got more"});
    at_ = At::skipped;
    return true;
  }
  bool leave_skipped() {
    if (--skipped_levels_ == 0) at_ = At::entry;
    return true;
  }
  bool is_unknown_field() const {
    return at_ == At::entry && std::none_of(std::begin(kFields), std::end(kFields),
                                            [&](const char* known) { return field_ == known; });
  }

  void entry_key(const std::string& name) {
    field_ = name;
    for (int i = 0; i < 3; ++i) {
      if (name != kFields[i]) continue;
      if (seen_ & (1 << i)) fail_repeated("each field of " + entry_name(), name);
      seen_ |= 1 << i;
      return;
    }
    if (mode_ == SafetensorsMode::strict)
      fail_at(string_begin(), {"expected the fields dtype, shape and data_offsets in ",
                               entry_name(), ", got ", quoted(name, 40)});
  }

  void take_offsets() {
    if (offsets_.size() != 2) fail_at(literal_begin(1), {expected(), ", got ", offsets_.size()});
    if (offsets_[1] < offsets_[0])
      fail_at(literal_begin(1), {"expected data_offsets that do not decrease for ", entry_name(),
                                 ", got ", offsets_[0], " and ", offsets_[1]});
    entries.back().offset = offsets_[0];
    entries.back().bytes = offsets_[1] - offsets_[0];
  }

  [[noreturn]] void fail_repeated(const std::string& what, std::string_view name) const {
    fail_at(string_begin(), {"expected ", what, " once, got ", quoted(name, 120), " again"});
  }

  SafetensorsMode mode_;
  At at_ = At::outside;
  std::string field_;  // the last key at this place
  int seen_ = 0;       // bits of the fields of this entry, in the order of kFields
  int skipped_levels_ = 0;
  std::vector<uint64_t> offsets_;
  std::unordered_set<std::string> names_;
};

// The bytes that the shape and dtype of an entry ask for.
uint64_t bytes_of(const SafetensorsEntry& entry, std::string_view source) {
  const std::string name = quoted(entry.name, 120);
  uint64_t bits = find_type(entry.dtype)->bits;
  for (const int64_t extent : entry.shape)
    PINION_REQUIRE(data, checked_mul(bits, static_cast<uint64_t>(extent), bits), source,
                   ": expected a shape whose size fits 64 bits for tensor ", name,
                   ", got one that does not");
  PINION_REQUIRE(data, bits % 8 == 0, source, ": expected whole bytes for tensor ", name, ", got ",
                 bits, " bits of ", entry.dtype);
  return bits / 8;
}

void check_layout(std::vector<SafetensorsEntry>& entries, uint64_t data_bytes,
                  std::string_view source) {
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  uint64_t end = 0;  // never wraps: it is the larger data_offset of an entry
  for (const SafetensorsEntry& entry : entries) {
    PINION_REQUIRE(data, entry.offset == end, source, ": expected the data of tensor ",
                   quoted(entry.name, 120), " at offset ", end, ", got ", entry.offset,
                   entry.offset < end ? ", an overlap" : ", a hole");
    end += entry.bytes;
    PINION_REQUIRE(data, end <= data_bytes, source, ": expected the data of tensor ",
                   quoted(entry.name, 120), " to end within ", data_bytes, " bytes, got ", end);
    const uint64_t needed = bytes_of(entry, source);
    PINION_REQUIRE(data, entry.bytes == needed, source, ": expected ", needed,
                   " bytes from the shape and dtype of tensor ", quoted(entry.name, 120), ", got ",
                   entry.bytes, " from its data_offsets");
  }
  PINION_REQUIRE(data, end == data_bytes, source, ": expected ", end,
                 " bytes of data after the header, got ", data_bytes);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view head, uint64_t file_size,
                                           std::string_view source, SafetensorsMode mode) {
  PINION_REQUIRE(data, file_size >= kLengthBytes && head.size() >= kLengthBytes, source,
                 ": expected at least 8 bytes for the length of the header, got ",
                 std::min<uint64_t>(file_size, head.size()));
  uint64_t length = 0;  // little-endian, as is every machine that this runs on
  std::memcpy(&length, head.data(), kLengthBytes);
  PINION_REQUIRE(data, length <= kMaxSafetensorsHeader, source, ": expected a header of at most ",
                 kMaxSafetensorsHeader, " bytes, got ", length);
  PINION_REQUIRE(data, length <= file_size - kLengthBytes && length <= head.size() - kLengthBytes,
                 source, ": expected a header of ", length, " bytes, got a file with ",
                 file_size - kLengthBytes, " after the length field");

  // JSON white space may stand around the object; a byte order mark, which the parser would skip,
  // may not. Padding is cut here: it can be most of the 100 MB.
  std::string_view text = head.substr(kLengthBytes, length);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  size_t first = 0;
  while (first < text.size() && is_space(text[first])) ++first;
  PINION_REQUIRE(data, !text.empty() && text[first] == '{', source,
                 ": expected a header that begins with '{', got ",
                 text.empty() ? "nothing" : quoted(text.substr(first, 1)));

  HeaderEvents events(text, source, mode);
  events.parse();
  SafetensorsHeader header{std::move(events.entries), std::move(events.metadata),
                           kLengthBytes + length};
  check_layout(header.entries, file_size - header.data_begin, source);
  return header;
}

}  // namespace pinion
