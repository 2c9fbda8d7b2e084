// SPDX-License-Identifier: Apache-2.0
// A client that works by hand, for tests and for the fuzz target of the store.
#pragma once

#include <string>

#include "pinion/dist/store/protocol.h"
#include "pinion/dist/store/service.h"

namespace pinion::dist {

inline const Bytes32 kClientNonce = {1, 2, 3};

// What a client answers to the greeting that stands at the front of `out`, which it takes.
inline std::string hello_to(std::string& out, const StoreSecret& secret,
                            const std::string& run_id) {
  StoreReader greeting(out);
  greeting.raw(kStoreMagic.size());
  const Bytes32 nonce = greeting.bytes();
  out.erase(0, kStoreMagic.size() + 32);
  return StoreWriter()
      .raw(kStoreMagic.data(), kStoreMagic.size())
      .bytes(kClientNonce)
      .u8(static_cast<uint8_t>(run_id.size()))
      .raw(run_id.data(), run_id.size())
      .bytes(secret.proof("client", nonce, kClientNonce, run_id))
      .take();
}

inline std::string set_frame(std::string_view key, std::string_view value, int64_t lives = 0) {
  return StoreWriter()
      .u8(static_cast<uint8_t>(StoreOp::set))
      .text(key)
      .text(value)
      .i64(lives)
      .take_frame();
}

inline std::string key_frame(StoreOp op, const std::vector<std::string>& keys, int64_t wait = 0) {
  StoreWriter out;
  out.u8(static_cast<uint8_t>(op)).u32(static_cast<uint32_t>(keys.size()));
  for (const std::string& key : keys) out.text(key);
  return out.i64(wait).take_frame();
}

}  // namespace pinion::dist
