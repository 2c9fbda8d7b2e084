// SPDX-License-Identifier: Apache-2.0
// Secrets from the system's random numbers, descriptors and files; HMAC by nettle.
#include "pinion/dist/store/secret.h"

#include <fcntl.h>
#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

constexpr size_t kMostFileBytes = 65536;

Bytes32 random_bytes() {
  Bytes32 bytes;
  PINION_REQUIRE(io, getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
                 "getrandom: ", std::strerror(errno));
  return bytes;
}

void update(hmac_sha256_ctx& context, std::string_view text) {
  // The length first: where one part ends and the next begins cannot be shifted.
  const uint8_t length[4] = {
      static_cast<uint8_t>(text.size()), static_cast<uint8_t>(text.size() >> 8),
      static_cast<uint8_t>(text.size() >> 16), static_cast<uint8_t>(text.size() >> 24)};
  hmac_sha256_update(&context, sizeof length, length);
  hmac_sha256_update(&context, text.size(), reinterpret_cast<const uint8_t*>(text.data()));
}

std::string_view view(const Bytes32& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

StoreSecret StoreSecret::random() {
  StoreSecret secret;
  secret.bytes_ = random_bytes();
  return secret;
}

StoreSecret StoreSecret::from_fd(int fd) {
  StoreSecret secret;
  const ssize_t n = pread(fd, secret.bytes_.data(), secret.bytes_.size(), 0);
  PINION_REQUIRE(permission, n == static_cast<ssize_t>(secret.bytes_.size()),
                 "store: expected a secret of 32 bytes in descriptor ", fd, ", got ",
                 n < 0 ? std::strerror(errno) : "fewer");
  return secret;
}

StoreSecret StoreSecret::from_file(const std::string& path) {
  // Not by runtime/fs.h, which knows nothing of owners and permissions.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  PINION_REQUIRE(missing, fd >= 0, "secret file ", quoted(path), ": ", std::strerror(errno));
  struct stat status {};
  std::string text(kMostFileBytes, '\0');
  const bool known = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  const ssize_t n = known ? read(fd, text.data(), text.size()) : -1;
  close(fd);
  PINION_REQUIRE(permission, known, "secret file ", quoted(path), ": expected a regular file");
  PINION_REQUIRE(permission, (status.st_mode & 077) == 0, "secret file ", quoted(path),
                 ": expected mode 0600 (chmod 600), got one that others may use");
  PINION_REQUIRE(permission, status.st_uid == geteuid() || status.st_uid == 0, "secret file ",
                 quoted(path), ": expected it to be ours, it belongs to another user");
  PINION_REQUIRE(permission, n >= 32, "secret file ", quoted(path),
                 ": expected at least 32 bytes, got ", static_cast<long>(n));
  StoreSecret secret;
  sha256_ctx context;
  sha256_init(&context);
  sha256_update(&context, static_cast<size_t>(n), reinterpret_cast<const uint8_t*>(text.data()));
  sha256_digest(&context, secret.bytes_.size(), secret.bytes_.data());
  explicit_bzero(text.data(), text.size());
  return secret;
}

StoreSecret::~StoreSecret() { explicit_bzero(bytes_.data(), bytes_.size()); }

int StoreSecret::to_fd() const {
  const int fd = memfd_create("pinion-secret", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  PINION_REQUIRE(io, fd >= 0, "memfd_create: ", std::strerror(errno));
  const bool written =
      write(fd, bytes_.data(), bytes_.size()) == static_cast<ssize_t>(bytes_.size()) &&
      fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0;
  if (!written) {
    close(fd);
    fail(ErrorKind::io, {"store: the secret cannot be put into a file in memory"});
  }
  return fd;
}

Bytes32 StoreSecret::proof(std::string_view role, const Bytes32& asked_by,
                           const Bytes32& answered_by, std::string_view run_id) const {
  hmac_sha256_ctx context;
  hmac_sha256_set_key(&context, bytes_.size(), bytes_.data());
  for (const std::string_view part : {role, view(asked_by), view(answered_by), run_id})
    update(context, part);
  Bytes32 digest;
  hmac_sha256_digest(&context, digest.size(), digest.data());
  explicit_bzero(&context, sizeof context);
  return digest;
}

Bytes32 random_nonce() { return random_bytes(); }

bool equal_bytes(const Bytes32& a, const Bytes32& b) {
  return nettle_memeql_sec(a.data(), b.data(), a.size()) != 0;
}

}  // namespace pinion::dist
