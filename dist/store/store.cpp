// SPDX-License-Identifier: Apache-2.0
// Asks a store, and waits for its answers no longer than was agreed.
#include "pinion/dist/store/store.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "pinion/dist/store/protocol.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kAnswerTime{30};  // to a request that waits for nothing

int poll_until(int fd, short events, Clock::time_point until) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd request{fd, events, 0};
    const int n = poll(&request, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (n > 0 || (n == 0 && left <= 60'000) || (n < 0 && errno != EINTR)) return n;
  }
}

StoreWriter begin(StoreOp op) { return std::move(StoreWriter().u8(static_cast<uint8_t>(op))); }

}  // namespace

Store::Store(const std::string& address, const StoreSecret& secret, std::string run_id,
             std::string prefix, Milliseconds timeout)
    : address_(address), prefix_(std::move(prefix)) {
  parse_address(address_);  // a wrong one will not get better
  const auto until = Clock::now() + timeout;
  std::string why;
  for (auto pause = Milliseconds(2);; pause = std::min(2 * pause, Milliseconds(250))) {
    if (connect(secret, run_id, until, why)) return;
    PINION_REQUIRE(peer_lost, Clock::now() + pause < until, "store ", address_,
                   ": cannot be reached: ", why);
    std::this_thread::sleep_for(pause);
  }
}

std::unique_ptr<Store> Store::from_environment() {
  const char* address = std::getenv("PINION_STORE");
  if (!address || !*address) return nullptr;
  const auto needed = [](const char* name) {
    const char* value = std::getenv(name);
    PINION_REQUIRE(config, value && *value, name, ": expected beside PINION_STORE, got nothing");
    return std::string(value);
  };
  const std::string text = needed("PINION_STORE_SECRET_FD"), epoch = needed("PINION_EPOCH");
  int fd = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), fd);
  PINION_REQUIRE(config, error == std::errc() && stop == text.data() + text.size() && fd >= 0,
                 "PINION_STORE_SECRET_FD: expected a descriptor, got ", quoted(text));
  return std::make_unique<Store>(address, StoreSecret::from_fd(fd), needed("PINION_RUN_ID"),
                                 "ranks/" + epoch + "/");
}

bool Store::connect(const StoreSecret& secret, const std::string& run_id, Time until,
                    std::string& why) {
  PINION_REQUIRE(config, !run_id.empty() && run_id.size() <= kMaxRunId,
                 "store: expected a run id of 1 to 64 bytes, got ", quoted(run_id, 80));
  in_.clear();
  std::tie(socket_, why) = begin_connect(address_);
  if (!socket_) return false;
  int error = 0;
  socklen_t size = sizeof error;
  if (poll_until(socket_.fd(), POLLOUT, until) <= 0)
    error = ETIMEDOUT;
  else
    getsockopt(socket_.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  why = error != 0 ? std::strerror(error) : "it closed the connection";
  if (error != 0) return false;

  const auto take = [&](size_t bytes) -> std::string {
    while (in_.size() < bytes)
      if (!read_some(until)) return {};
    const std::string piece = in_.substr(0, bytes);
    in_.erase(0, bytes);
    return piece;
  };
  try {
    const std::string greeting = take(kStoreMagic.size() + 32);
    if (greeting.empty()) return why = "it does not answer", false;
    StoreReader in(greeting);
    PINION_REQUIRE(permission, in.raw(kStoreMagic.size()) == kStoreMagic, "store ", address_,
                   ": something else listens there");
    const Bytes32 theirs = in.bytes(), ours = random_nonce();
    StoreWriter hello;
    hello.raw(kStoreMagic.data(), kStoreMagic.size()).bytes(ours);
    hello.u8(static_cast<uint8_t>(run_id.size())).raw(run_id.data(), run_id.size());
    send_all(hello.bytes(secret.proof("client", theirs, ours, run_id)).take(), until);
    const std::string answer = take(1);
    if (answer.empty()) return why = "it does not answer", false;
    if (answer[0] == static_cast<char>(Handshake::wrong_run)) {
      const std::string length = take(1);
      const std::string other = length.empty() ? "" : take(static_cast<uint8_t>(length[0]));
      fail(ErrorKind::permission,
           {"store ", address_, ": expected run ", quoted(run_id), ", got run ", quoted(other)});
    }
    PINION_REQUIRE(permission, answer[0] == static_cast<char>(Handshake::joined), "store ",
                   address_, ": it refused our secret for run ", quoted(run_id));
    const std::string proof = take(32);
    if (proof.empty()) return why = "it does not answer", false;
    PINION_REQUIRE(
        permission,
        equal_bytes(StoreReader(proof).bytes(), secret.proof("server", ours, theirs, run_id)),
        "store ", address_, ": it does not know the secret of run ", quoted(run_id));
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::peer_lost) throw;
    return false;  // it went away: a store that is full, or just starting
  }
  return true;
}

void Store::lost(std::string_view why) const {
  fail(ErrorKind::peer_lost, {"store ", address_, ": ", why});
}

void Store::send_all(std::string_view bytes, Time until) {
  while (!bytes.empty()) {
    const ssize_t n = send(socket_.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0)
      bytes.remove_prefix(static_cast<size_t>(n));
    else if (n < 0 && errno == EAGAIN && poll_until(socket_.fd(), POLLOUT, until) > 0)
      continue;
    else if (n < 0 && errno == EINTR)
      continue;
    else
      lost(errno == EAGAIN ? "it takes nothing more" : std::strerror(errno));
  }
}

bool Store::read_some(Time until) {
  char bytes[16384];
  while (true) {
    const ssize_t n = recv(socket_.fd(), bytes, sizeof bytes, 0);
    if (n > 0) {
      in_.append(bytes, static_cast<size_t>(n));
      return true;
    }
    if (n == 0) lost("it closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) lost(std::strerror(errno));
    if (poll_until(socket_.fd(), POLLIN, until) <= 0) return false;
  }
}

std::optional<std::string> Store::read_frame(Time until) {
  while (true) {
    bool too_long = false;
    if (const auto frame = first_frame(in_, kMaxAnswer, too_long)) {
      std::string body(*frame);
      in_.erase(0, 4 + body.size());
      return body;
    }
    if (too_long) lost("an answer is too long");
    if (!read_some(until)) return std::nullopt;
  }
}

std::optional<std::string> Store::ask(std::string frame, Milliseconds patience) {
  const auto until = Clock::now() + patience + kAnswerTime;
  send_all(frame, until);
  auto answer = read_frame(until);
  if (!answer || answer->empty()) lost("it does not answer");
  StoreReader in(*answer);
  const auto status = static_cast<StoreStatus>(in.u8());
  if (status == StoreStatus::timeout) return std::nullopt;
  PINION_REQUIRE(data, status == StoreStatus::ok, "store ", address_, ": ",
                 escaped(in.text(kMaxKey)));
  answer->erase(0, 1);
  return answer;
}

std::string Store::key_request(uint8_t op, const std::vector<std::string>& keys,
                               Milliseconds timeout) {
  PINION_CHECK(keys.size() <= kMaxKeyList, "store: expected at most 1024 keys, got ", keys.size());
  StoreWriter request = begin(static_cast<StoreOp>(op));
  request.u32(static_cast<uint32_t>(keys.size()));
  for (const std::string& key : keys) request.text(full(key));
  return request.i64(timeout.count()).take_frame();
}

void Store::set(std::string_view key, std::string_view value, Milliseconds lives) {
  ask(begin(StoreOp::set).text(full(key)).text(value).i64(lives.count()).take_frame());
}

std::string Store::get(std::string_view key, Milliseconds timeout) {
  const auto answer =
      ask(key_request(static_cast<uint8_t>(StoreOp::get), {std::string(key)}, timeout), timeout);
  PINION_REQUIRE(hang, answer, "store ", address_, ": nobody set ", quoted(key), " within ",
                 timeout.count(), " ms");
  StoreReader in(*answer);
  in.u8();
  return std::string(in.text(kMaxValue));
}

std::optional<std::string> Store::try_get(std::string_view key) {
  return multi_get({std::string(key)})[0];
}

int64_t Store::add(std::string_view key, int64_t amount) {
  const auto answer = ask(begin(StoreOp::add).text(full(key)).i64(amount).take_frame());
  return answer ? StoreReader(*answer).i64() : 0;
}

bool Store::compare_set(std::string_view key, std::optional<std::string_view> expected,
                        std::string_view value) {
  StoreWriter request = begin(StoreOp::cas);
  request.text(full(key)).u8(expected ? 1 : 0).text(expected.value_or("")).text(value);
  const auto answer = ask(request.take_frame());
  return answer && StoreReader(*answer).u8() != 0;
}

void Store::wait(const std::vector<std::string>& keys, Milliseconds timeout) {
  const auto answer = ask(key_request(static_cast<uint8_t>(StoreOp::wait), keys, timeout), timeout);
  if (answer) return;
  std::string missing;
  for (const std::string& key : keys)
    if (!check({key})) missing += (missing.empty() ? "" : ", ") + quoted(key);
  fail(ErrorKind::hang,
       {"store ", address_, ": nobody set ", missing, " within ", timeout.count(), " ms"});
}

bool Store::check(const std::vector<std::string>& keys) {
  const auto answer = ask(key_request(static_cast<uint8_t>(StoreOp::check), keys, {}));
  return answer && StoreReader(*answer).u8() != 0;
}

bool Store::remove(std::string_view key) {
  const auto answer = ask(begin(StoreOp::remove).text(full(key)).take_frame());
  return answer && StoreReader(*answer).u8() != 0;
}

std::vector<std::optional<std::string>> Store::multi_get(const std::vector<std::string>& keys) {
  const auto answer = ask(key_request(static_cast<uint8_t>(StoreOp::multi_get), keys, {}));
  std::vector<std::optional<std::string>> values(keys.size());
  if (!answer) return values;
  StoreReader in(*answer);
  for (auto& value : values)
    if (in.u8() != 0) value = std::string(in.text(kMaxValue));
  return values;
}

void Store::watch(std::string_view prefix) {
  ask(begin(StoreOp::watch).text(full(prefix)).take_frame());
}

std::optional<StoreEvent> Store::next_event(Milliseconds timeout) {
  const auto frame = read_frame(Clock::now() + timeout);
  if (!frame) return std::nullopt;
  StoreReader in(*frame);
  const bool is_event = in.u8() == static_cast<uint8_t>(StoreStatus::event);
  PINION_CHECK(is_event, "store: expected an event, got an answer; watch() was not called");
  const bool set = in.u8() != 0;
  StoreEvent event;
  event.key = in.text(kMaxKey).substr(prefix_.size());
  if (set) event.value = std::string(in.text(kMaxValue));
  return event;
}

}  // namespace pinion::dist
