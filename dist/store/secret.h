// SPDX-License-Identifier: Apache-2.0
// The 256-bit secret of a run, and the proofs of knowing it. It travels in inherited descriptors
// and in files that only their owner can read, never in arguments or the environment.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace pinion::dist {

using Bytes32 = std::array<uint8_t, 32>;

class StoreSecret {
 public:
  static StoreSecret random();
  // From the beginning of an open file; the position stays. Throws Error (permission).
  static StoreSecret from_fd(int fd);
  // From the contents of a regular file of at least 32 bytes that nobody but its owner, who is us
  // or root, may read or write. Throws Error (permission, missing).
  static StoreSecret from_file(const std::string& path);
  StoreSecret(const StoreSecret&) = default;
  StoreSecret& operator=(const StoreSecret&) = default;
  ~StoreSecret();  // wipes it

  // A sealed file in memory that holds it, closed on exec. The caller owns the descriptor.
  int to_fd() const;
  // HMAC-SHA256 (RFC 2104) over `role`, both nonces and the run's name.
  Bytes32 proof(std::string_view role, const Bytes32& asked_by, const Bytes32& answered_by,
                std::string_view run_id) const;

 private:
  StoreSecret() = default;
  Bytes32 bytes_{};
};

Bytes32 random_nonce();
// In a time that does not depend on where they differ.
bool equal_bytes(const Bytes32& a, const Bytes32& b);

}  // namespace pinion::dist
