// SPDX-License-Identifier: Apache-2.0
// What goes over the wire between a store and its clients. Numbers are little-endian.
//
//   store  -> client   magic[8] nonce[32]
//   client -> store    magic[8] nonce[32] length[1] run_id proof("client", store, client, run_id)
//   store  -> client   answer[1]; joined: proof("server", client, store, run_id)[32]
//                      wrong_run: length[1] run_id of the store; refused: nothing; then it closes
// and from then on frames: length[4] of what follows, operation or status [1], fields. A text is
// length[4] bytes; a list of keys is count[4] texts.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/dist/store/secret.h"

namespace pinion::dist {

inline constexpr std::string_view kStoreMagic = "PINSTOR1";
inline constexpr size_t kMaxRunId = 64;
inline constexpr size_t kMaxKey = 256, kMaxValue = 1 << 20, kMaxKeys = 65536;
inline constexpr size_t kMaxKeyList = 1024;              // keys in one request
inline constexpr size_t kMaxStored = size_t{256} << 20;  // bytes of all values together
inline constexpr size_t kMaxFrame = kMaxValue + 8192;    // of a request
inline constexpr size_t kMaxAnswer = (size_t{8} << 20);  // of an answer
inline constexpr std::chrono::seconds kHelloTime{2};     // from connecting to having proved it

enum class StoreOp : uint8_t { set, get, add, cas, wait, check, remove, multi_get, watch };
enum class StoreStatus : uint8_t {
  ok,
  timeout,  // what was waited for did not come
  wrong,    // a request that is none, or above a limit; a text says which
  event,    // of a watched prefix
};
enum class Handshake : uint8_t { joined, wrong_run, refused };

// Builds a frame or a piece of one.
class StoreWriter {
 public:
  StoreWriter& u8(uint8_t v) { return raw(&v, 1); }
  StoreWriter& u32(uint32_t v);
  StoreWriter& i64(int64_t v);
  StoreWriter& text(std::string_view text);
  StoreWriter& bytes(const Bytes32& b) { return raw(b.data(), b.size()); }
  StoreWriter& raw(const void* data, size_t size) {
    out_.append(static_cast<const char*>(data), size);
    return *this;
  }
  std::string take() { return std::move(out_); }
  std::string take_frame();  // with its length before it

 private:
  std::string out_;
};

// Takes one apart. After a field that is not there everything is zero and good() is false.
class StoreReader {
 public:
  explicit StoreReader(std::string_view in) : in_(in) {}
  uint8_t u8();
  uint32_t u32();
  int64_t i64();
  std::string_view text(size_t most);
  std::string_view raw(size_t size);
  Bytes32 bytes();
  std::vector<std::string> keys();
  bool good() const { return good_; }
  bool at_end() const { return good_ && in_.empty(); }

 private:
  std::string_view in_;
  bool good_ = true;
};

// The body of the first frame in `in`, without its length; nothing while it is not there as a
// whole. `too_long` tells of one above `most`.
std::optional<std::string_view> first_frame(std::string_view in, size_t most, bool& too_long);

}  // namespace pinion::dist
