// SPDX-License-Identifier: Apache-2.0
// The store without sockets: bytes of connections in, bytes out. A connection can do nothing before
// it has proved that it knows the secret and the name of the run. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/dist/store/protocol.h"

namespace pinion::dist {

class StoreService {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Options {
    std::string run_id;
    size_t max_connections = 64;  // that have proved themselves
    size_t max_strangers = 128;   // that have not yet; of more the oldest is dropped
  };
  StoreService(const StoreSecret& secret, Options options);

  int64_t open(Time now);  // a new connection; its number
  void receive(int64_t id, std::string_view bytes, Time now);
  void close(int64_t id);
  void tick(Time now);  // what time alone brings: timeouts, and keys that expire
  std::optional<Time> next_deadline() const;

  // Connections that have output, or have ended, since the last call.
  std::vector<int64_t> take_changed();
  // What is to be sent to a connection; whoever sends takes it from the front.
  std::string& output(int64_t id);
  bool ended(int64_t id) const;  // to be closed once its output is sent

  size_t keys() const { return table_.size(); }
  // Strangers that were dropped for what they sent, or did not send, since the last call; `why` is
  // the last one's.
  int64_t take_refused(std::string& why);

 private:
  struct Entry {
    std::string value;
    Time expires = Time::max();
  };
  struct Connection {
    bool joined = false, ended = false, watches = false;
    Bytes32 nonce{};
    Time hello_until;
    std::string in, out, prefix;
    // A request that waits: for all `keys`, to answer as `op` would.
    std::optional<StoreOp> waiting;
    std::vector<std::string> keys;
    Time until;
  };

  void hello(int64_t id, Connection& c);
  void refuse(int64_t id, Connection& c, std::string why);
  void end(int64_t id, Connection& c);
  void serve(int64_t id, Connection& c, Time now);
  std::string answer(Connection& c, std::string_view frame, Time now);
  std::string answer_set(StoreReader& in, Time now);
  std::string answer_add(StoreReader& in);
  std::string answer_cas(StoreReader& in);
  std::string answer_keys(Connection& c, StoreOp op, StoreReader& in, Time now);
  std::string values_of(StoreOp op, const std::vector<std::string>& keys) const;
  bool all_there(const std::vector<std::string>& keys) const;
  std::string put(const std::string& key, std::string value, Time expires);
  bool erase(const std::string& key);
  void tell_watchers(std::string_view key, const std::string* value);
  void wake(Time now);

  const StoreSecret secret_;
  const Options options_;
  std::map<int64_t, Connection> connections_;
  std::map<std::string, Entry, std::less<>> table_;
  std::set<std::pair<Time, std::string>> expiring_;
  std::set<int64_t> changed_, waiting_;
  std::set<std::string, std::less<>> written_;  // keys that waiters may be waiting for
  size_t stored_ = 0, joined_ = 0;
  int64_t next_id_ = 1, refused_ = 0;
  std::string refused_why_;
};

}  // namespace pinion::dist
