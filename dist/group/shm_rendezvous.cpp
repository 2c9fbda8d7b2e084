// SPDX-License-Identifier: Apache-2.0
// A descriptor over an abstract socket: rank 0 serves each other rank once.
#include "pinion/dist/group/shm_rendezvous.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  int take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct Hello {                                 // both ways
  uint64_t magic = 0x31'74'65'6d'6e'6f'69'70;  // "pionmet1"
  int32_t rank = 0, ranks = 0;
};

struct Address {
  sockaddr_un name{};
  socklen_t size = 0;

  explicit Address(const std::string& text) {
    // A name in no file system has a zero in front; long ones are told apart by their hash.
    uint64_t hash = 1469598103934665603U;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
    name.sun_family = AF_UNIX;
    const int length =
        std::snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "pinion-%u-%016llx",
                      static_cast<unsigned>(getuid()), static_cast<unsigned long long>(hash));
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

Descriptor make_socket() {
  Descriptor s(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  PINION_REQUIRE(io, s.get() >= 0, "shm rendezvous: no socket: ", std::strerror(errno));
  return s;
}

bool readable(int fd, Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
  pollfd event{fd, POLLIN, 0};
  return poll(&event, 1, static_cast<int>(std::clamp<int64_t>(left, 0, INT32_MAX))) > 0;
}

bool same_user(int fd) {
  ucred who{};
  socklen_t size = sizeof who;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid == getuid();
}

// Sends `hello`, with a descriptor beside it unless that is -1.
bool send_hello(int to, Hello hello, int descriptor) {
  iovec part{&hello, sizeof hello};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* beside = CMSG_FIRSTHDR(&message);
    beside->cmsg_level = SOL_SOCKET;
    beside->cmsg_type = SCM_RIGHTS;
    beside->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(beside), &descriptor, sizeof descriptor);
  }
  return sendmsg(to, &message, MSG_NOSIGNAL) == sizeof hello;
}

// False for anything but a hello; the descriptor beside it, or -1.
bool receive_hello(int from, Hello& hello, int& descriptor) {
  iovec part{&hello, sizeof hello};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  const ssize_t got = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
  descriptor = -1;
  const cmsghdr* beside = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (beside && beside->cmsg_type == SCM_RIGHTS && beside->cmsg_len == CMSG_LEN(sizeof(int)))
    std::memcpy(&descriptor, CMSG_DATA(beside), sizeof descriptor);
  return got == sizeof hello && hello.magic == Hello{}.magic;
}

std::shared_ptr<ShmSegment> serve(const Address& address, int ranks, Clock::time_point deadline) {
  auto segment = ShmSegment::create(ranks);
  const Descriptor server = make_socket();
  PINION_REQUIRE(config, bind(server.get(), address.get(), address.size) == 0,
                 "shm rendezvous: another run of this user meets under the same name; give each ",
                 "its own MASTER_PORT or PINION_RUN_ID");
  listen(server.get(), ranks);
  std::vector<bool> came(static_cast<size_t>(ranks));
  for (int left = ranks - 1; left > 0;) {
    if (!readable(server.get(), deadline)) {
      std::string missing;
      for (int r = 1; r < ranks; ++r)
        if (!came[static_cast<size_t>(r)]) missing += cat({missing.empty() ? "" : ", ", r});
      fail(ErrorKind::hang, {"shm rendezvous: rank ", missing, " did not come in time"});
    }
    const Descriptor client(accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
    Hello hello;
    int none = -1;
    if (client.get() < 0 || !same_user(client.get()) ||
        !readable(client.get(), Clock::now() + milliseconds(1000)) ||
        !receive_hello(client.get(), hello, none))
      continue;  // a stranger
    send_hello(client.get(), {Hello{}.magic, 0, ranks}, segment->fd());
    PINION_REQUIRE(config,
                   hello.ranks == ranks && hello.rank > 0 && hello.rank < ranks &&
                       !came[static_cast<size_t>(hello.rank)],
                   "shm rendezvous: expected ranks 1 to ", ranks - 1, " of ", ranks,
                   " once each, got rank ", hello.rank, " of ", hello.ranks);
    came[static_cast<size_t>(hello.rank)] = true;
    --left;
  }
  return segment;
}

std::shared_ptr<ShmSegment> fetch(const Address& address, int rank, int ranks,
                                  Clock::time_point deadline) {
  for (;;) {
    const Descriptor client = make_socket();
    if (connect(client.get(), address.get(), address.size) != 0) {  // rank 0 is not there yet
      PINION_REQUIRE(hang, Clock::now() < deadline, "shm rendezvous: rank 0 did not come in time");
      std::this_thread::sleep_for(milliseconds(1));
      continue;
    }
    PINION_REQUIRE(permission, same_user(client.get()),
                   "shm rendezvous: somebody else's process answered in place of rank 0");
    Hello hello;
    int descriptor = -1;
    send_hello(client.get(), {Hello{}.magic, rank, ranks}, -1);
    PINION_REQUIRE(hang, readable(client.get(), deadline),
                   "shm rendezvous: rank 0 did not answer in time");
    PINION_REQUIRE(peer_lost, receive_hello(client.get(), hello, descriptor) && descriptor >= 0,
                   "shm rendezvous: rank 0 ended before all had met");
    Descriptor owned(descriptor);
    PINION_REQUIRE(config, hello.ranks == ranks, "shm rendezvous: expected ", ranks,
                   " ranks as rank ", rank, " was told, got ", hello.ranks, " from rank 0");
    return ShmSegment::open(owned.take());
  }
}

}  // namespace

std::string rendezvous_name(const std::function<const char*(const char*)>& get) {
  std::string name;
  for (const char* variable :
       {"PINION_RUN_ID", "PINION_EPOCH", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
        "MASTER_ADDR", "MASTER_PORT", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID",
        "SLURM_STEP_ID", "PMI_PORT"})
    if (const char* value = get(variable)) name += cat({variable, "=", value, ";"});
  PINION_REQUIRE(config, !name.empty(), "MASTER_ADDR: expected it and MASTER_PORT, or ",
                 "PINION_RUN_ID, the same for all ranks of a run, got nothing");
  return name;
}

std::shared_ptr<ShmSegment> meet_on_host(const std::string& name, int rank, int ranks,
                                         milliseconds timeout) {
  const Address address(name);
  const auto deadline = Clock::now() + timeout;
  return rank == 0 ? serve(address, ranks, deadline) : fetch(address, rank, ranks, deadline);
}

}  // namespace pinion::dist
