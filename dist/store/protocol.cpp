// SPDX-License-Identifier: Apache-2.0
// Fields and frames of the store's protocol.
#include "pinion/dist/store/protocol.h"

#include <algorithm>

namespace pinion::dist {

namespace {

template <class T>
void append(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i)
    out += static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
}

uint64_t number(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

StoreWriter& StoreWriter::u32(uint32_t v) {
  append(out_, v);
  return *this;
}

StoreWriter& StoreWriter::i64(int64_t v) {
  append(out_, v);
  return *this;
}

StoreWriter& StoreWriter::text(std::string_view text) {
  return u32(static_cast<uint32_t>(text.size())).raw(text.data(), text.size());
}

std::string StoreWriter::take_frame() {
  std::string frame;
  append(frame, static_cast<uint32_t>(out_.size()));
  frame += out_;
  out_.clear();
  return frame;
}

std::string_view StoreReader::raw(size_t size) {
  if (size > in_.size()) good_ = false;
  if (!good_) return {};
  const std::string_view piece = in_.substr(0, size);
  in_.remove_prefix(size);
  return piece;
}

uint8_t StoreReader::u8() { return static_cast<uint8_t>(number(raw(1))); }
uint32_t StoreReader::u32() { return static_cast<uint32_t>(number(raw(4))); }
int64_t StoreReader::i64() { return static_cast<int64_t>(number(raw(8))); }

std::string_view StoreReader::text(size_t most) {
  const size_t size = u32();
  if (size > most) good_ = false;
  return raw(size);
}

Bytes32 StoreReader::bytes() {
  Bytes32 out{};
  const std::string_view piece = raw(out.size());
  std::copy(piece.begin(), piece.end(), out.begin());
  return out;
}

std::vector<std::string> StoreReader::keys() {
  std::vector<std::string> keys;
  const size_t count = u32();
  if (count > kMaxKeyList) good_ = false;
  for (size_t i = 0; i < count && good_; ++i) keys.emplace_back(text(kMaxKey));
  return keys;
}

std::optional<std::string_view> first_frame(std::string_view in, size_t most, bool& too_long) {
  too_long = false;
  if (in.size() < 4) return std::nullopt;
  const size_t size = number(in.substr(0, 4));
  too_long = size > most;
  if (too_long || in.size() - 4 < size) return std::nullopt;
  return in.substr(4, size);
}

}  // namespace pinion::dist
