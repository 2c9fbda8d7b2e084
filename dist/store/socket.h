// SPDX-License-Identifier: Apache-2.0
// TCP sockets by address: "127.0.0.1:29500", "[::1]:29500", "node0:29500".
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace pinion::dist {

class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

struct Address {
  std::string host, port;
};
// Throws Error (config).
Address parse_address(std::string_view text);
// The port among them; 0 when there is none.
int port_of(std::string_view address);

// Listens on this address alone. Throws Error (config) with what the system said.
Socket listen_on(std::string_view address);
// "127.0.0.1:4711": where a socket listens.
std::string local_address(const Socket& socket);
// A socket that is being connected, not waiting for it; or the reason why not.
std::pair<Socket, std::string> begin_connect(std::string_view address);
// Neither waits for more bytes to send them together.
void send_at_once(int fd);

}  // namespace pinion::dist
