// SPDX-License-Identifier: Apache-2.0
// The handshake, the table of keys, and who waits for what.
#include "pinion/dist/store/service.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

std::string ok() { return StoreWriter().u8(static_cast<uint8_t>(StoreStatus::ok)).take_frame(); }
std::string ok_flag(bool flag) {
  return StoreWriter().u8(static_cast<uint8_t>(StoreStatus::ok)).u8(flag ? 1 : 0).take_frame();
}
std::string timed_out() {
  return StoreWriter().u8(static_cast<uint8_t>(StoreStatus::timeout)).take_frame();
}
std::string wrong(std::string_view why) {
  return StoreWriter().u8(static_cast<uint8_t>(StoreStatus::wrong)).text(why).take_frame();
}

constexpr size_t kMaxHello = kStoreMagic.size() + 32 + 1 + kMaxRunId + 32;
constexpr std::chrono::hours kLongestWait{24 * 365};  // keeps sums of times in range

std::chrono::milliseconds milliseconds(int64_t count) {
  return std::chrono::milliseconds(
      std::clamp<int64_t>(count, 0, std::chrono::milliseconds(kLongestWait).count()));
}

}  // namespace

StoreService::StoreService(const StoreSecret& secret, Options options)
    : secret_(secret), options_(std::move(options)) {
  PINION_REQUIRE(config, !options_.run_id.empty() && options_.run_id.size() <= kMaxRunId,
                 "store: expected a run id of 1 to 64 bytes, got ", quoted(options_.run_id, 80));
}

// --- connections ---------------------------------------------------------------------------------

int64_t StoreService::open(Time now) {
  if (connections_.size() - joined_ >= options_.max_strangers)
    for (auto& [id, c] : connections_)  // by age; a hello that is meant well takes a millisecond
      if (!c.joined && !c.ended) {
        refuse(id, c, "too many connections at once");
        break;
      }
  const int64_t id = next_id_++;
  Connection& c = connections_[id];
  c.nonce = random_nonce();
  c.hello_until = now + kHelloTime;
  c.out = StoreWriter().raw(kStoreMagic.data(), kStoreMagic.size()).bytes(c.nonce).take();
  changed_.insert(id);
  return id;
}

void StoreService::close(int64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  if (!found->second.ended) end(id, found->second);
  connections_.erase(found);
  changed_.erase(id);
}

void StoreService::end(int64_t id, Connection& c) {
  if (c.joined) --joined_;
  c.joined = false;
  c.ended = true;
  c.watches = false;
  c.waiting.reset();
  waiting_.erase(id);
  c.in.clear();
  changed_.insert(id);
}

void StoreService::refuse(int64_t id, Connection& c, std::string why) {
  ++refused_;
  refused_why_ = std::move(why);
  end(id, c);
}

int64_t StoreService::take_refused(std::string& why) {
  why = std::move(refused_why_);
  refused_why_.clear();
  return std::exchange(refused_, 0);
}

std::vector<int64_t> StoreService::take_changed() {
  std::vector<int64_t> ids(changed_.begin(), changed_.end());
  changed_.clear();
  return ids;
}

std::string& StoreService::output(int64_t id) { return connections_.at(id).out; }
bool StoreService::ended(int64_t id) const { return connections_.at(id).ended; }

void StoreService::receive(int64_t id, std::string_view bytes, Time now) {
  const auto found = connections_.find(id);
  if (found == connections_.end() || found->second.ended) return;
  Connection& c = found->second;
  c.in += bytes;
  if (!c.joined) hello(id, c);
  if (c.joined) serve(id, c, now);
  wake(now);
}

void StoreService::hello(int64_t id, Connection& c) {
  const std::string_view begins = std::string_view(c.in).substr(0, kStoreMagic.size());
  if (begins != kStoreMagic.substr(0, begins.size()))
    return refuse(id, c, "something that does not speak the store's protocol");
  StoreReader in(c.in);
  in.raw(kStoreMagic.size());
  const Bytes32 nonce = in.bytes();
  const size_t length = in.u8();
  if (in.good() && length > kMaxRunId) return refuse(id, c, "a run id above 64 bytes");
  const std::string run_id(in.raw(length));
  const Bytes32 proof = in.bytes();
  if (!in.good()) return;  // the rest is on its way, or never comes
  const auto answer = [&](Handshake handshake) {
    return StoreWriter().u8(static_cast<uint8_t>(handshake));
  };
  // The role in the proof keeps a stranger from sending our own answers back to us.
  if (!equal_bytes(proof, secret_.proof("client", c.nonce, nonce, run_id))) {
    c.out += answer(Handshake::refused).take();
    return refuse(id, c, cat({"a wrong secret, for run ", quoted(run_id)}));
  }
  if (run_id != options_.run_id) {
    c.out += answer(Handshake::wrong_run)
                 .u8(static_cast<uint8_t>(options_.run_id.size()))
                 .raw(options_.run_id.data(), options_.run_id.size())
                 .take();
    return refuse(id, c,
                  cat({"run ", quoted(run_id), " where run ", quoted(options_.run_id), " meets"}));
  }
  if (joined_ >= options_.max_connections) {
    c.out += answer(Handshake::refused).take();
    return refuse(id, c, cat({"more than ", options_.max_connections, " connections of this run"}));
  }
  c.out += answer(Handshake::joined).bytes(secret_.proof("server", nonce, c.nonce, run_id)).take();
  c.joined = true;
  ++joined_;
  c.in.erase(0, kMaxHello - kMaxRunId + length);
  changed_.insert(id);
}

// --- requests ------------------------------------------------------------------------------------

void StoreService::serve(int64_t id, Connection& c, Time now) {
  size_t used = 0;
  while (!c.waiting && !c.ended) {
    bool too_long = false;
    const auto frame = first_frame(std::string_view(c.in).substr(used), kMaxFrame, too_long);
    if (too_long) {
      c.out += wrong("a request is too long");
      return end(id, c);
    }
    if (!frame) break;
    used += 4 + frame->size();
    const std::string reply = answer(c, *frame, now);
    if (c.waiting) waiting_.insert(id);
    c.out += reply;
    if (!reply.empty()) changed_.insert(id);
  }
  c.in.erase(0, used);
  // Whoever waits for an answer, or for events, has no reason to say much meanwhile.
  if (c.in.size() > 2 * kMaxFrame) end(id, c);
}

std::string StoreService::answer(Connection& c, std::string_view frame, Time now) {
  StoreReader in(frame);
  const auto op = static_cast<StoreOp>(in.u8());
  switch (op) {
    case StoreOp::set: return answer_set(in, now);
    case StoreOp::add: return answer_add(in);
    case StoreOp::cas: return answer_cas(in);
    case StoreOp::get:
    case StoreOp::wait:
    case StoreOp::check:
    case StoreOp::multi_get: return answer_keys(c, op, in, now);
    case StoreOp::remove: {
      const std::string key(in.text(kMaxKey));
      return in.at_end() ? ok_flag(erase(key)) : wrong("remove: expected a key");
    }
    case StoreOp::watch: {
      const std::string_view prefix = in.text(kMaxKey);
      if (!in.at_end()) return wrong("watch: expected a prefix");
      c.prefix = prefix;
      c.watches = true;
      return ok();
    }
  }
  return wrong("an operation that there is not");
}

std::string StoreService::answer_set(StoreReader& in, Time now) {
  const std::string key(in.text(kMaxKey));
  std::string value(in.text(kMaxValue));
  const int64_t lives = in.i64();
  if (!in.at_end()) return wrong("set: expected a key, a value and a time to live");
  return put(key, std::move(value), lives > 0 ? now + milliseconds(lives) : Time::max());
}

std::string StoreService::answer_add(StoreReader& in) {
  const std::string key(in.text(kMaxKey));
  const int64_t amount = in.i64();
  if (!in.at_end()) return wrong("add: expected a key and a number");
  int64_t value = 0;
  const auto found = table_.find(key);
  const Time expires = found == table_.end() ? Time::max() : found->second.expires;
  if (found != table_.end()) {
    const std::string& text = found->second.value;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size())
      return wrong("add: expected a number under this key");
  }
  if (__builtin_add_overflow(value, amount, &value)) return wrong("add: the sum does not fit");
  const std::string failure = put(key, std::to_string(value), expires);
  if (failure != ok()) return failure;
  return StoreWriter().u8(static_cast<uint8_t>(StoreStatus::ok)).i64(value).take_frame();
}

// Answers whether the value was exchanged, and which value is there now.
std::string StoreService::answer_cas(StoreReader& in) {
  const std::string key(in.text(kMaxKey));
  const bool must_be_there = in.u8() != 0;
  const std::string_view expected = in.text(kMaxValue);
  std::string value(in.text(kMaxValue));
  if (!in.at_end()) return wrong("compare_set: expected a key and two values");
  const auto found = table_.find(key);
  const bool fits = must_be_there ? found != table_.end() && found->second.value == expected
                                  : found == table_.end();
  if (!fits) return ok_flag(false);
  const std::string failure =
      put(key, std::move(value), found == table_.end() ? Time::max() : found->second.expires);
  return failure == ok() ? ok_flag(true) : failure;
}

std::string StoreService::answer_keys(Connection& c, StoreOp op, StoreReader& in, Time now) {
  std::vector<std::string> keys = in.keys();
  const int64_t patience = in.i64();
  if (!in.at_end() || (op == StoreOp::get && keys.size() != 1))
    return wrong("expected keys and a time to wait");
  const bool waits = op == StoreOp::get || op == StoreOp::wait;
  if (!waits || all_there(keys)) return values_of(op, keys);
  if (patience <= 0) return timed_out();
  c.waiting = op;
  c.keys = std::move(keys);
  c.until = now + milliseconds(patience);
  return {};
}

std::string StoreService::values_of(StoreOp op, const std::vector<std::string>& keys) const {
  if (op == StoreOp::wait) return ok();
  if (op == StoreOp::check) return ok_flag(all_there(keys));
  StoreWriter out;
  out.u8(static_cast<uint8_t>(StoreStatus::ok));
  size_t bytes = 0;
  for (const std::string& key : keys) {
    const auto found = table_.find(key);
    out.u8(found != table_.end() ? 1 : 0);
    if (found == table_.end()) continue;
    bytes += found->second.value.size();
    if (bytes > kMaxAnswer - kMaxFrame)
      return wrong("multi_get: the values are too much for one answer");
    out.text(found->second.value);
  }
  return out.take_frame();
}

bool StoreService::all_there(const std::vector<std::string>& keys) const {
  return std::all_of(keys.begin(), keys.end(),
                     [&](const std::string& key) { return table_.count(key) > 0; });
}

// --- the table -----------------------------------------------------------------------------------

std::string StoreService::put(const std::string& key, std::string value, Time expires) {
  if (key.empty()) return wrong("expected a key of 1 to 256 bytes");
  const auto found = table_.find(key);
  const size_t before = found == table_.end() ? 0 : found->second.value.size();
  if (found == table_.end() && table_.size() >= kMaxKeys)
    return wrong("the store holds 65536 keys");
  if (stored_ - before + value.size() > kMaxStored) return wrong("the store holds 256 MiB");
  if (found != table_.end()) expiring_.erase({found->second.expires, key});
  stored_ += value.size() - before;
  if (expires != Time::max()) expiring_.insert({expires, key});
  Entry& entry = table_[key];
  entry = {std::move(value), expires};
  tell_watchers(key, &entry.value);
  if (!waiting_.empty()) written_.insert(key);
  return ok();
}

bool StoreService::erase(const std::string& key) {
  const auto found = table_.find(key);
  if (found == table_.end()) return false;
  expiring_.erase({found->second.expires, key});
  stored_ -= found->second.value.size();
  table_.erase(found);
  tell_watchers(key, nullptr);
  return true;
}

void StoreService::tell_watchers(std::string_view key, const std::string* value) {
  for (auto& [id, c] : connections_) {
    if (!c.watches || !key.starts_with(c.prefix)) continue;
    if (c.out.size() > kMaxAnswer) {  // it does not read what it asked for
      end(id, c);
      continue;
    }
    c.out += StoreWriter()
                 .u8(static_cast<uint8_t>(StoreStatus::event))
                 .u8(value ? 1 : 0)
                 .text(key)
                 .text(value ? *value : std::string())
                 .take_frame();
    changed_.insert(id);
  }
}

// Answers whoever waited for keys that are there now, and goes on with what they sent since.
void StoreService::wake(Time now) {
  while (!written_.empty()) {
    const auto written = std::exchange(written_, {});
    for (const int64_t id : std::vector<int64_t>(waiting_.begin(), waiting_.end())) {
      Connection& c = connections_.at(id);
      if (!c.waiting) continue;
      const bool concerned = std::any_of(c.keys.begin(), c.keys.end(), [&](const std::string& key) {
        return written.count(key) > 0;
      });
      if (!concerned || !all_there(c.keys)) continue;
      c.out += values_of(*c.waiting, c.keys);
      c.waiting.reset();
      waiting_.erase(id);
      changed_.insert(id);
      serve(id, c, now);
    }
  }
}

void StoreService::tick(Time now) {
  while (!expiring_.empty() && expiring_.begin()->first <= now)
    erase(std::string(expiring_.begin()->second));
  for (const int64_t id : std::vector<int64_t>(waiting_.begin(), waiting_.end())) {
    Connection& c = connections_.at(id);
    if (!c.waiting || c.until > now) continue;
    c.out += timed_out();
    c.waiting.reset();
    waiting_.erase(id);
    changed_.insert(id);
    serve(id, c, now);
  }
  for (auto& [id, c] : connections_)
    if (!c.joined && !c.ended && c.hello_until <= now)
      refuse(id, c, "a connection that said nothing within 2 seconds");
  wake(now);
}

std::optional<StoreService::Time> StoreService::next_deadline() const {
  Time next = Time::max();
  if (!expiring_.empty()) next = expiring_.begin()->first;
  for (const int64_t id : waiting_) next = std::min(next, connections_.at(id).until);
  for (const auto& [id, c] : connections_)
    if (!c.joined && !c.ended) next = std::min(next, c.hello_until);
  return next == Time::max() ? std::nullopt : std::optional(next);
}

}  // namespace pinion::dist
