// SPDX-License-Identifier: Apache-2.0
// The thread between sockets and the store.
#include "pinion/dist/store/server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <thread>

#include "pinion/dist/store/service.h"
#include "pinion/dist/store/socket.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSpareConnections = 8;  // for launchers
constexpr std::chrono::seconds kLogPause{10};
constexpr uint64_t kListener = 0, kStop = ~uint64_t{0};  // other tags are connections

}  // namespace

class StoreServer::Loop {
 public:
  Loop(const StoreSecret& secret, const Options& options)
      : service_(secret,
                 {options.run_id, static_cast<size_t>(4 * options.ranks + kSpareConnections)}),
        listener_(listen_on(options.address)),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    PINION_REQUIRE(io, epoll_ && stop_, "store: ", std::strerror(errno));
    watch(EPOLL_CTL_ADD, listener_.fd(), EPOLLIN, kListener);
    watch(EPOLL_CTL_ADD, stop_.fd(), EPOLLIN, kStop);
    // Signals are for the threads of whoever made us.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~Loop() {
    const uint64_t one = 1;
    while (write(stop_.fd(), &one, sizeof one) < 0 && errno == EINTR) {
    }
    thread_.join();
  }

  std::string address() const { return local_address(listener_); }

 private:
  void watch(int how, int fd, uint32_t events, uint64_t tag) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag;
    epoll_ctl(epoll_.fd(), how, fd, &event);
  }

  void run() {
    while (true) {
      epoll_event events[64];
      const int n = epoll_wait(epoll_.fd(), events, 64, milliseconds_to_deadline());
      const auto now = Clock::now();
      for (int i = 0; i < n; ++i) {
        const uint64_t tag = events[i].data.u64;
        if (tag == kStop) return;
        if (tag == kListener)
          accept_some(now);
        else if ((events[i].events & EPOLLOUT) != 0)
          send(static_cast<int64_t>(tag));
        else
          receive(static_cast<int64_t>(tag), now);
      }
      service_.tick(now);
      for (const int64_t id : service_.take_changed()) send(id);
      report(now);
    }
  }

  int milliseconds_to_deadline() const {
    const auto next = service_.next_deadline();
    if (!next) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }

  void accept_some(Clock::time_point now) {
    for (int i = 0; i < 64; ++i) {  // others get their turn during a flood
      Socket socket(accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) {
        // Without a free descriptor the listener stays ready: wait for strangers to be dropped.
        if (errno == EMFILE || errno == ENFILE) usleep(10'000);
        return;
      }
      send_at_once(socket.fd());
      const int64_t id = service_.open(now);
      watch(EPOLL_CTL_ADD, socket.fd(), EPOLLIN, static_cast<uint64_t>(id));
      sockets_[id] = std::move(socket);
    }
  }

  void receive(int64_t id, Clock::time_point now) {
    const auto found = sockets_.find(id);
    if (found == sockets_.end()) return;  // closed by an event before this one
    char bytes[65536];
    const ssize_t n = recv(found->second.fd(), bytes, sizeof bytes, 0);
    if (n > 0)
      service_.receive(id, {bytes, static_cast<size_t>(n)}, now);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
      drop(id);
    // Answers go out before the next connection is read, so that none waits for all others.
    for (const int64_t changed : service_.take_changed()) send(changed);
  }

  void send(int64_t id) {
    const auto found = sockets_.find(id);
    if (found == sockets_.end()) return;
    std::string& out = service_.output(id);
    size_t sent = 0;
    while (sent < out.size()) {
      const ssize_t n =
          ::send(found->second.fd(), out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno != EAGAIN) return drop(id);
      if (n < 0) break;
      sent += static_cast<size_t>(n);
    }
    out.erase(0, sent);
    if (service_.ended(id)) return drop(id);
    const bool more = !out.empty();
    watch(EPOLL_CTL_MOD, found->second.fd(), more ? EPOLLIN | EPOLLOUT : EPOLLIN,
          static_cast<uint64_t>(id));
  }

  void drop(int64_t id) {
    service_.close(id);
    sockets_.erase(id);
  }

  void report(Clock::time_point now) {
    std::string why;
    const int64_t count = service_.take_refused(why);
    if (count > 0) refused_ += count, refused_why_ = why;
    if (refused_ == 0 || now < quiet_until_) return;
    log_warn({"store ", address(), ": refused ", refused_,
              refused_ == 1 ? " connection: " : " connections, the last: ", refused_why_});
    refused_ = 0;
    quiet_until_ = now + kLogPause;
  }

  StoreService service_;
  Socket listener_, epoll_, stop_;
  std::map<int64_t, Socket> sockets_;
  int64_t refused_ = 0;
  std::string refused_why_;
  Clock::time_point quiet_until_{};
  std::thread thread_;
};

StoreServer::StoreServer(const StoreSecret& secret, const Options& options)
    : loop_(std::make_unique<Loop>(secret, options)) {
  address_ = loop_->address();
}

StoreServer::~StoreServer() = default;

int StoreServer::port() const { return port_of(address_); }

}  // namespace pinion::dist
