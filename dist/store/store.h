// SPDX-License-Identifier: Apache-2.0
// Store: the client of the store where the ranks of a run meet. Small values under names:
// addresses, identifiers, counts. One thread at a time; while it waits, nothing else goes through
// it.
//
// Errors: permission (a store of another run, or another secret), peer_lost (the store is gone),
// hang (what was waited for did not come), data (the store refuses a request, above a limit say).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/dist/store/secret.h"
#include "pinion/dist/store/socket.h"

namespace pinion::dist {

struct StoreEvent {
  std::string key;
  std::optional<std::string> value;  // nothing: deleted, or expired
};

class Store {
 public:
  using Milliseconds = std::chrono::milliseconds;
  // Connects, again and again until `timeout`: the store may come up later than we. Every key is
  // put behind `prefix`.
  Store(const std::string& address, const StoreSecret& secret, std::string run_id,
        std::string prefix = "", Milliseconds timeout = std::chrono::seconds(30));
  // Of the launcher: PINION_STORE, PINION_STORE_SECRET_FD, PINION_RUN_ID; keys are those of this
  // start of the ranks alone (PINION_EPOCH). Null when there is none. The descriptor stays open, so
  // that it can be called again.
  static std::unique_ptr<Store> from_environment();

  // Values live until deleted, or for `lives` milliseconds when that is given.
  void set(std::string_view key, std::string_view value, Milliseconds lives = {});
  std::string get(std::string_view key, Milliseconds timeout);  // waits until it is there
  std::optional<std::string> try_get(std::string_view key);
  int64_t add(std::string_view key, int64_t amount);  // a number in decimal; 0 when not there
  // Sets the value if the one that is there is `expected`, or none is there when that is nothing.
  bool compare_set(std::string_view key, std::optional<std::string_view> expected,
                   std::string_view value);
  void wait(const std::vector<std::string>& keys, Milliseconds timeout);  // for all of them
  bool check(const std::vector<std::string>& keys);                       // are all there?
  bool remove(std::string_view key);                                      // was it there?
  std::vector<std::optional<std::string>> multi_get(const std::vector<std::string>& keys);

  // From now on this client only hears of keys that begin with `prefix`.
  void watch(std::string_view prefix);
  std::optional<StoreEvent> next_event(Milliseconds timeout);  // nothing when none comes
  int fd() const { return socket_.fd(); }                      // readable when something comes

 private:
  using Time = std::chrono::steady_clock::time_point;
  // False with the reason when trying again may help.
  bool connect(const StoreSecret& secret, const std::string& run_id, Time until, std::string& why);
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  std::string key_request(uint8_t op, const std::vector<std::string>& keys, Milliseconds timeout);
  // Sends a frame and returns the fields of the answer; nothing when the store says timeout.
  std::optional<std::string> ask(std::string frame, Milliseconds patience = {});
  std::optional<std::string> read_frame(Time until);
  void send_all(std::string_view bytes, Time until);
  bool read_some(Time until);  // more into in_; false when there is none in time
  [[noreturn]] void lost(std::string_view why) const;

  std::string address_, prefix_;
  Socket socket_;
  std::string in_;
};

}  // namespace pinion::dist
