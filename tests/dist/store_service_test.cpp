// SPDX-License-Identifier: Apache-2.0
// The store without sockets: who gets in, what requests do, what time does, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pinion/dist/store/service.h"
#include "pinion/kernels/philox.h"
#include "store_testing.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

class StoreServiceTest : public testing::Test {
 protected:
  int64_t join() {
    const int64_t id = service_.open(now_);
    service_.receive(id, hello_to(service_.output(id), secret_, "run"), now_);
    EXPECT_EQ(take(id).substr(0, 1), std::string(1, static_cast<char>(Handshake::joined)));
    return id;
  }
  std::string take(int64_t id) { return std::exchange(service_.output(id), {}); }
  // The body of the one answer to a frame; "" when there is none yet.
  std::string ask(int64_t id, const std::string& frame) {
    service_.receive(id, frame, now_);
    return body(id);
  }
  std::string body(int64_t id) {
    const std::string out = take(id);
    return out.size() < 4 ? out : out.substr(4);
  }
  static std::string status(StoreStatus s) { return std::string(1, static_cast<char>(s)); }
  static std::string value(std::string_view text) {
    return StoreWriter().u8(0).u8(1).text(text).take();
  }
  std::string refused() {
    std::string why;
    service_.take_refused(why);
    return why;
  }

  const StoreSecret secret_ = StoreSecret::random();
  StoreService service_{secret_, {.run_id = "run", .max_connections = 3, .max_strangers = 4}};
  StoreService::Time now_{};
  const std::string ok_ = status(StoreStatus::ok), timeout_ = status(StoreStatus::timeout);
};

TEST_F(StoreServiceTest, WhoKnowsTheSecretProvesItAndIsShownTheSame) {
  const int64_t id = service_.open(now_);
  std::string& out = service_.output(id);
  const Bytes32 nonce = StoreReader(std::string_view(out).substr(8)).bytes();
  service_.receive(id, hello_to(out, secret_, "run"), now_);
  EXPECT_EQ(out, StoreWriter()
                     .u8(static_cast<uint8_t>(Handshake::joined))
                     .bytes(secret_.proof("server", kClientNonce, nonce, "run"))
                     .take());
}

TEST_F(StoreServiceTest, OneByteAtATimeIsTheSame) {
  const int64_t id = service_.open(now_);
  const std::string bytes =
      hello_to(service_.output(id), secret_, "run") + set_frame("key", "value");
  for (const char byte : bytes) service_.receive(id, {&byte, 1}, now_);
  EXPECT_EQ(service_.keys(), 1);
  EXPECT_FALSE(service_.ended(id));
}

TEST_F(StoreServiceTest, AWrongSecretIsRefusedAndToldNothing) {
  const int64_t id = service_.open(now_);
  const std::string hello = hello_to(service_.output(id), StoreSecret::random(), "run");
  service_.receive(id, hello + set_frame("key", "value"), now_);
  EXPECT_EQ(take(id), std::string(1, static_cast<char>(Handshake::refused)));
  EXPECT_TRUE(service_.ended(id));
  EXPECT_EQ(service_.keys(), 0);
  EXPECT_THAT(refused(), HasSubstr("a wrong secret"));
}

TEST_F(StoreServiceTest, AnotherRunIsRefusedByName) {
  const int64_t id = service_.open(now_);
  service_.receive(id, hello_to(service_.output(id), secret_, "other"), now_);
  EXPECT_EQ(take(id), std::string(1, static_cast<char>(Handshake::wrong_run)) + "\x03run");
  EXPECT_TRUE(service_.ended(id));
  EXPECT_EQ(refused(), "run 'other' where run 'run' meets");
}

// What somebody heard on the wire opens nothing: the store asks another question each time; and its
// own proof is none of a client's.
TEST_F(StoreServiceTest, RepeatedHellosAreRefused) {
  const int64_t first = service_.open(now_);
  const std::string hello = hello_to(service_.output(first), secret_, "run");
  service_.receive(first, hello, now_);
  const std::string answer = take(first);
  const int64_t second = service_.open(now_);
  service_.receive(second, hello, now_);
  EXPECT_TRUE(service_.ended(second));
  const int64_t third = service_.open(now_);
  std::string reflected = hello;
  reflected.replace(reflected.size() - 32, 32, answer.substr(1));
  service_.receive(third, reflected, now_);
  EXPECT_TRUE(service_.ended(third));
}

TEST_F(StoreServiceTest, GarbageIsDroppedAtItsFirstByte) {
  const int64_t id = service_.open(now_);
  service_.receive(id, "G", now_);  // GET / HTTP/1.1
  EXPECT_TRUE(service_.ended(id));
  EXPECT_THAT(refused(), HasSubstr("does not speak"));
}

TEST_F(StoreServiceTest, HalfAHelloIsDroppedAfterTwoSeconds) {
  const int64_t id = service_.open(now_);
  const std::string hello = hello_to(service_.output(id), secret_, "run");
  service_.receive(id, hello.substr(0, hello.size() - 1), now_);
  EXPECT_EQ(service_.next_deadline(), now_ + seconds(2));
  service_.tick(now_ + milliseconds(1999));
  EXPECT_FALSE(service_.ended(id));
  service_.tick(now_ + seconds(2));
  EXPECT_TRUE(service_.ended(id));
}

TEST_F(StoreServiceTest, OfTooManyStrangersTheOldestGoes) {
  std::vector<int64_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(service_.open(now_));
  EXPECT_TRUE(service_.ended(ids[0]));
  for (int i = 1; i < 5; ++i) EXPECT_FALSE(service_.ended(ids[static_cast<size_t>(i)]));
}

TEST_F(StoreServiceTest, ConnectionsOfTheRunAreCounted) {
  const int64_t a = join();
  join();
  join();
  const int64_t more = service_.open(now_);
  service_.receive(more, hello_to(service_.output(more), secret_, "run"), now_);
  EXPECT_TRUE(service_.ended(more));
  service_.close(a);
  join();  // its place is free again
}

TEST_F(StoreServiceTest, ValuesAreSetAskedForAndDeleted) {
  const int64_t id = join();
  EXPECT_EQ(ask(id, key_frame(StoreOp::check, {"k"})), ok_ + '\0');
  EXPECT_EQ(ask(id, set_frame("k", "one")), ok_);
  EXPECT_EQ(ask(id, set_frame("k", "two")), ok_);
  EXPECT_EQ(ask(id, key_frame(StoreOp::check, {"k"})), ok_ + '\1');
  EXPECT_EQ(ask(id, key_frame(StoreOp::get, {"k"}, 1000)), value("two"));
  EXPECT_EQ(ask(id, key_frame(StoreOp::multi_get, {"k", "none"})), value("two") + '\0');
  const std::string remove =
      StoreWriter().u8(static_cast<uint8_t>(StoreOp::remove)).text("k").take_frame();
  EXPECT_EQ(ask(id, remove), ok_ + '\1');
  EXPECT_EQ(ask(id, remove), ok_ + '\0');
}

TEST_F(StoreServiceTest, NumbersAreAdded) {
  const int64_t id = join();
  const auto add = [&](int64_t amount) {
    return ask(
        id,
        StoreWriter().u8(static_cast<uint8_t>(StoreOp::add)).text("n").i64(amount).take_frame());
  };
  EXPECT_EQ(add(3), StoreWriter().u8(0).i64(3).take());
  EXPECT_EQ(add(-5), StoreWriter().u8(0).i64(-2).take());
  EXPECT_EQ(ask(id, key_frame(StoreOp::get, {"n"})), value("-2"));
  EXPECT_THAT(add(INT64_MIN), HasSubstr("does not fit"));
  ask(id, set_frame("n", "2x"));
  EXPECT_THAT(add(1), HasSubstr("expected a number"));
}

TEST_F(StoreServiceTest, ValuesAreExchangedOnlyForTheExpectedOne) {
  const int64_t id = join();
  const auto cas = [&](bool there, std::string_view expected, std::string_view wanted) {
    return ask(id, StoreWriter()
                       .u8(static_cast<uint8_t>(StoreOp::cas))
                       .text("k")
                       .u8(there ? 1 : 0)
                       .text(expected)
                       .text(wanted)
                       .take_frame());
  };
  EXPECT_EQ(cas(true, "", "a"), ok_ + '\0');
  EXPECT_EQ(cas(false, "", "a"), ok_ + '\1');
  EXPECT_EQ(cas(false, "", "b"), ok_ + '\0');
  EXPECT_EQ(cas(true, "b", "c"), ok_ + '\0');
  EXPECT_EQ(cas(true, "a", "c"), ok_ + '\1');
  EXPECT_EQ(ask(id, key_frame(StoreOp::get, {"k"})), value("c"));
}

TEST_F(StoreServiceTest, WaitingEndsWithTheLastKeyOrInTime) {
  const int64_t a = join(), b = join();
  EXPECT_EQ(ask(a, key_frame(StoreOp::wait, {"x", "y"}, 500)), "");
  EXPECT_EQ(service_.next_deadline(), now_ + milliseconds(500));
  ask(b, set_frame("x", "1"));
  EXPECT_EQ(body(a), "");
  ask(b, set_frame("y", "2"));
  EXPECT_EQ(body(a), ok_);
  EXPECT_EQ(ask(a, key_frame(StoreOp::get, {"z"}, 500)), "");
  // What comes meanwhile is answered afterwards, in order.
  EXPECT_EQ(ask(a, key_frame(StoreOp::get, {"x"}, 0)), "");
  service_.tick(now_ + milliseconds(500));
  EXPECT_EQ(body(a), timeout_ + StoreWriter().u32(7).take() + value("1"));
  EXPECT_EQ(ask(a, key_frame(StoreOp::get, {"z"}, 0)), timeout_);
}

TEST_F(StoreServiceTest, KeysExpireAndWatchersHearOfIt) {
  const int64_t watcher = join(), id = join();
  EXPECT_EQ(ask(watcher,
                StoreWriter().u8(static_cast<uint8_t>(StoreOp::watch)).text("beat/").take_frame()),
            ok_);
  ask(id, set_frame("other", "1"));
  EXPECT_EQ(body(watcher), "");
  ask(id, set_frame("beat/0", "1", 100));
  const auto event = [](bool set, std::string_view text) {
    return StoreWriter()
        .u8(static_cast<uint8_t>(StoreStatus::event))
        .u8(set ? 1 : 0)
        .text("beat/0")
        .text(text)
        .take();
  };
  EXPECT_EQ(body(watcher), event(true, "1"));
  now_ += milliseconds(60);
  ask(id, set_frame("beat/0", "2", 100));
  EXPECT_EQ(body(watcher), event(true, "2"));
  service_.tick(now_ + milliseconds(60));  // the first life is over, the second is not
  EXPECT_EQ(body(watcher), "");
  service_.tick(now_ + milliseconds(100));
  EXPECT_EQ(body(watcher), event(false, ""));
  EXPECT_EQ(ask(id, key_frame(StoreOp::check, {"beat/0"})), ok_ + '\0');
}

TEST_F(StoreServiceTest, LimitsAreSaid) {
  const int64_t id = join();
  const std::string longest(kMaxKey, 'k'), largest(kMaxValue, 'v');
  EXPECT_EQ(ask(id, set_frame(longest, largest)), ok_);
  EXPECT_EQ(ask(id, set_frame(longest + "k", "")).substr(0, 1), status(StoreStatus::wrong));
  EXPECT_EQ(ask(id, set_frame("k", largest + "v")).substr(0, 1), status(StoreStatus::wrong));
  EXPECT_THAT(ask(id, set_frame("", "v")), HasSubstr("1 to 256 bytes"));
  for (int i = 1; i < 256; ++i) EXPECT_EQ(ask(id, set_frame(std::to_string(i), largest)), ok_);
  EXPECT_THAT(ask(id, set_frame("one more", "v")), HasSubstr("256 MiB"));
  EXPECT_FALSE(service_.ended(id));
  std::vector<std::string> many;
  for (int i = 1; i < 20; ++i) many.push_back(std::to_string(i));
  EXPECT_THAT(ask(id, key_frame(StoreOp::multi_get, many)), HasSubstr("too much for one answer"));
  service_.receive(id, std::string("\xff\xff\xff\xff", 4), now_);
  EXPECT_TRUE(service_.ended(id));
}

TEST_F(StoreServiceTest, NumberOfKeysIsLimited) {
  const int64_t id = join();
  for (size_t i = 0; i < kMaxKeys; ++i) ask(id, set_frame(std::to_string(i), ""));
  EXPECT_EQ(service_.keys(), kMaxKeys);
  EXPECT_THAT(ask(id, set_frame("more", "")), HasSubstr("65536 keys"));
  EXPECT_EQ(ask(id, set_frame("7", "again")), ok_);
}

TEST_F(StoreServiceTest, DamagedRequestsChangeNothing) {
  const int64_t id = join();
  const std::string good = set_frame("key", "value");
  for (size_t cut = 5; cut < good.size(); ++cut) {
    const std::string body = good.substr(4, cut - 4);
    EXPECT_EQ(ask(id, StoreWriter().text(body).take()).substr(0, 1), status(StoreStatus::wrong));
  }
  EXPECT_EQ(ask(id, StoreWriter().text("").take()).substr(0, 1), status(StoreStatus::wrong));
  EXPECT_EQ(ask(id, StoreWriter().text("\x7f").take()).substr(0, 1), status(StoreStatus::wrong));
  EXPECT_EQ(service_.keys(), 0);
  EXPECT_FALSE(service_.ended(id));
}

TEST_F(StoreServiceTest, StrangersCanDoNothing) {
  const int64_t id = join();
  ask(id, set_frame("key", "value"));
  const std::string frames = set_frame("key", "broken") + set_frame("new", "x");
  for (uint64_t i = 0; i < 10'000; ++i) {
    const int64_t stranger = service_.open(now_);
    const StoreSecret guess = StoreSecret::random();
    std::string bytes = hello_to(service_.output(stranger), guess, "run") + frames;
    const Philox4 dice = philox({7, 0, 0}, i);
    bytes.erase(0, dice.v[0] % 4 == 0 ? dice.v[1] % bytes.size() : 0);
    if (dice.v[0] % 4 == 1) bytes[dice.v[2] % bytes.size()] ^= static_cast<char>(dice.v[3] | 1);
    service_.receive(stranger, bytes, now_);
    EXPECT_TRUE(service_.ended(stranger) || dice.v[0] % 4 < 2);
    service_.close(stranger);
  }
  EXPECT_EQ(service_.keys(), 1);
  EXPECT_EQ(ask(id, key_frame(StoreOp::get, {"key"})), value("value"));
}

}  // namespace
}  // namespace pinion::dist
