// SPDX-License-Identifier: Apache-2.0
// Addresses and sockets of the system.
#include "pinion/dist/store/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// Null with the reason in `error`.
Addresses look_up(const Address& address, std::string& error) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &list);
  if (failed != 0) error = failed == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(failed);
  return Addresses(failed == 0 ? list : nullptr);
}

int make_socket(const addrinfo& info) {
  return socket(info.ai_family, info.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, info.ai_protocol);
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

Address parse_address(std::string_view text) {
  const size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, colon);
  const std::string_view port = colon == text.npos ? "" : text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else
    PINION_REQUIRE(config, host.find(':') == host.npos, "store: expected [address]:port for IPv6, ",
                   "got ", quoted(text));
  int number = -1;
  const auto [stop, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  PINION_REQUIRE(config,
                 !host.empty() && error == std::errc() && stop == port.data() + port.size() &&
                     number >= 0 && number <= 65535,
                 "store: expected host:port, got ", quoted(text));
  return {std::string(host), std::string(port)};
}

int port_of(std::string_view address) { return std::stoi(parse_address(address).port); }

Socket listen_on(std::string_view address) {
  std::string error;
  const Addresses list = look_up(parse_address(address), error);
  for (const addrinfo* info = list.get(); info; info = info->ai_next) {
    Socket socket(make_socket(*info));
    const int on = 1;
    if (socket && setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(socket.fd(), info->ai_addr, info->ai_addrlen) == 0 && listen(socket.fd(), 512) == 0)
      return socket;
    error = std::strerror(errno);
  }
  fail(ErrorKind::config, {"store: cannot listen on ", quoted(address), ": ", error,
                           " (another port, or 0 for a free one)"});
}

std::string local_address(const Socket& socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  char host[NI_MAXHOST], port[NI_MAXSERV];
  const bool known = getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&storage), &size) == 0 &&
                     getnameinfo(reinterpret_cast<sockaddr*>(&storage), size, host, sizeof host,
                                 port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0;
  PINION_REQUIRE(io, known, "store: the address of a socket is not known");
  const bool six = storage.ss_family == AF_INET6;
  return cat({six ? "[" : "", host, six ? "]:" : ":", port});
}

std::pair<Socket, std::string> begin_connect(std::string_view address) {
  std::string error;
  const Addresses list = look_up(parse_address(address), error);
  for (const addrinfo* info = list.get(); info; info = info->ai_next) {
    Socket socket(make_socket(*info));
    if (socket &&
        (connect(socket.fd(), info->ai_addr, info->ai_addrlen) == 0 || errno == EINPROGRESS)) {
      send_at_once(socket.fd());
      return {std::move(socket), ""};
    }
    error = std::strerror(errno);
  }
  return {Socket(), error};
}

void send_at_once(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace pinion::dist
