// SPDX-License-Identifier: Apache-2.0
// The store over TCP: clients that find it, strangers that do not, and what a client says when
// something is wrong.
#include "pinion/dist/store/store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "pinion/dist/store/protocol.h"
#include "pinion/dist/store/server.h"
#include "pinion/runtime/log.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr milliseconds kLong{20'000}, kShort{20};

class StoreTest : public testing::Test {
 protected:
  StoreTest() { set_log_level(LogLevel::error); }
  ~StoreTest() override { set_log_level(LogLevel::info); }

  Store client(std::string prefix = "") const {
    return {server_.address(), secret_, "run", std::move(prefix), kLong};
  }
  template <class F>
  static std::string error(ErrorKind kind, F f) {
    try {
      f();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), kind) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "expected an error, got none";
    return {};
  }

  const StoreSecret secret_ = StoreSecret::random();
  StoreServer server_{secret_, {.run_id = "run", .ranks = 8}};
};

TEST_F(StoreTest, ListensOnLoopbackOnly) {
  EXPECT_TRUE(server_.address().starts_with("127.0.0.1:"));
  EXPECT_GT(server_.port(), 0);
}

TEST_F(StoreTest, ClientsShareValues) {
  Store a = client(), b = client(), other = client("elsewhere/");
  a.set("key", std::string("with \0 inside", 13));
  EXPECT_EQ(b.get("key", kLong), std::string("with \0 inside", 13));
  EXPECT_FALSE(other.check({"key"}));
  EXPECT_EQ(a.add("n", 2), 2);
  EXPECT_EQ(b.add("n", 40), 42);
  EXPECT_TRUE(a.compare_set("lock", std::nullopt, "a"));
  EXPECT_FALSE(b.compare_set("lock", std::nullopt, "b"));
  EXPECT_EQ(b.try_get("lock"), "a");
  EXPECT_THAT(a.multi_get({"n", "none", "lock"}), ElementsAre("42", std::nullopt, "a"));
  EXPECT_TRUE(a.remove("n"));
  EXPECT_FALSE(b.check({"n"}));
  const std::string large(kMaxValue, 'x');
  a.set("large", large);
  EXPECT_EQ(b.get("large", kLong), large);
}

TEST_F(StoreTest, WaitingIsForAnotherThread) {
  std::thread later([&] {
    Store b = client();
    b.wait({"a"}, kLong);
    b.set("b", "done");
  });
  Store a = client();
  a.set("a", "go");
  EXPECT_EQ(a.get("b", kLong), "done");
  later.join();
}

TEST_F(StoreTest, ManyClientsAddTogether) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      Store store = client();
      for (int i = 0; i < 100; ++i) store.add("sum", 1);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client().get("sum", kLong), "800");
}

TEST_F(StoreTest, WhatNeverComesIsNamed) {
  Store a = client("epoch/");
  EXPECT_THAT(error(ErrorKind::hang, [&] { a.get("never", kShort); }),
              HasSubstr("nobody set 'never' within 20 ms"));
  a.set("there", "");
  EXPECT_THAT(error(ErrorKind::hang,
                    [&] {
                      a.wait({"there", "not there"}, kShort);
                    }),
              HasSubstr("nobody set 'not there' within"));
  a.set("still", "usable");
}

TEST_F(StoreTest, WatchersHearOfTheirKeys) {
  Store watcher = client("p/"), a = client("p/");
  watcher.watch("rank/");
  a.set("other", "");
  a.set("rank/0", "up", milliseconds(30));
  const auto up = watcher.next_event(kLong);
  ASSERT_TRUE(up);
  EXPECT_EQ(up->key, "rank/0");
  EXPECT_EQ(up->value, "up");
  const auto gone = watcher.next_event(kLong);
  ASSERT_TRUE(gone);
  EXPECT_EQ(gone->key, "rank/0");
  EXPECT_FALSE(gone->value);
  EXPECT_FALSE(watcher.next_event(kShort));
}

TEST_F(StoreTest, RefusalsAreSaidOnBothSides) {
  EXPECT_THAT(
      error(ErrorKind::permission, [&] { Store(server_.address(), secret_, "mine", "", kLong); }),
      HasSubstr("expected run 'mine', got run 'run'"));
  EXPECT_THAT(error(ErrorKind::permission,
                    [&] { Store(server_.address(), StoreSecret::random(), "run", "", kLong); }),
              HasSubstr("refused our secret for run 'run'"));
}

TEST_F(StoreTest, AStoreThatDoesNotKnowTheSecretIsNotBelieved) {
  const Socket listener = listen_on("127.0.0.1:0");
  std::thread impostor([&] {
    int fd = -1;
    while ((fd = accept(listener.fd(), nullptr, nullptr)) < 0) usleep(1000);
    const std::string greeting = std::string(kStoreMagic) + std::string(32, 'n');
    EXPECT_EQ(write(fd, greeting.data(), greeting.size()), 40);
    std::string hello(76, '\0');
    EXPECT_EQ(recv(fd, hello.data(), hello.size(), MSG_WAITALL), 76);
    const std::string answer(33, '\0');  // joined, and a proof made of zeros
    EXPECT_EQ(write(fd, answer.data(), answer.size()), 33);
    close(fd);
  });
  EXPECT_THAT(error(ErrorKind::permission,
                    [&] { Store(local_address(listener), secret_, "run", "", kLong); }),
              HasSubstr("it does not know the secret of run 'run'"));
  impostor.join();
}

TEST_F(StoreTest, SomethingElseThatListensIsNamed) {
  const Socket listener = listen_on("127.0.0.1:0");
  std::thread web([&] {
    int fd = -1;
    while ((fd = accept(listener.fd(), nullptr, nullptr)) < 0) usleep(1000);
    const std::string text = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    EXPECT_EQ(write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    close(fd);
  });
  EXPECT_THAT(error(ErrorKind::permission,
                    [&] { Store(local_address(listener), secret_, "run", "", kLong); }),
              HasSubstr("something else listens there"));
  web.join();
}

TEST_F(StoreTest, NobodyThereIsSaidInTime) {
  std::string address;
  { address = local_address(listen_on("127.0.0.1:0")); }
  EXPECT_THAT(
      error(ErrorKind::peer_lost, [&] { Store(address, secret_, "run", "", milliseconds(50)); }),
      HasSubstr("cannot be reached: Connection refused"));
}

TEST_F(StoreTest, AStoreThatGoesAwayIsALostPeer) {
  auto server = std::make_unique<StoreServer>(secret_, StoreServer::Options{.run_id = "run"});
  Store a(server->address(), secret_, "run", "", kLong);
  server.reset();
  EXPECT_THAT(error(ErrorKind::peer_lost, [&] { a.set("k", "v"), a.set("k", "v"); }),
              HasSubstr("store 127.0.0.1:"));
}

TEST_F(StoreTest, LimitsAreErrors) {
  Store a = client();
  EXPECT_THAT(error(ErrorKind::data, [&] { a.set(std::string(257, 'k'), ""); }),
              HasSubstr("expected a key"));
  a.set("still", "usable");
}

TEST(StoreAddress, BadOnesAreSaid) {
  const StoreSecret secret = StoreSecret::random();
  const auto text = [&](const std::string& address) -> std::string {
    try {
      StoreServer server(secret, {.address = address});
      return "";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::config);
      return e.what();
    }
  };
  StoreServer first(secret, {});
  EXPECT_THAT(text(first.address()), HasSubstr("Address already in use"));
  EXPECT_THAT(text("192.0.2.1:0"), HasSubstr("Cannot assign requested address"));
  for (const char* address : {"", "127.0.0.1", "127.0.0.1:", ":1", "127.0.0.1:65536",
                              "127.0.0.1:-1", "127.0.0.1:1x", "::1:0"})
    EXPECT_THAT(text(address), HasSubstr("expected")) << address;
}

TEST(StoreAddress, MayBeIpv6) {
  const StoreSecret secret = StoreSecret::random();
  try {
    StoreServer server(secret, {.address = "[::1]:0"});
    EXPECT_TRUE(server.address().starts_with("[::1]:"));
    Store(server.address(), secret, "pinion").set("k", "v");
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();  // a machine without IPv6
  }
}

TEST(StoreSecretTest, FilesOfOthersAreRefused) {
  const TempDir dir;
  const std::string path = dir / "secret";
  const auto text = [&] {
    try {
      StoreSecret::from_file(path);
      return std::string();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::permission);
      return std::string(e.what());
    }
  };
  EXPECT_THROW(StoreSecret::from_file(path), Error);
  write_file_atomic(path, std::string(31, 's'));
  chmod(path.c_str(), 0600);
  EXPECT_THAT(text(), HasSubstr("at least 32 bytes, got 31"));
  write_file_atomic(path, std::string(32, 's'));
  for (const mode_t mode : {0640, 0604, 0660}) {
    chmod(path.c_str(), mode);
    EXPECT_THAT(text(), HasSubstr("expected mode 0600"));
  }
  chmod(path.c_str(), 0600);
  EXPECT_EQ(text(), "");
  symlink(path.c_str(), (dir / "link").c_str());
  EXPECT_THROW(StoreSecret::from_file(dir / "link"), Error);
  const Bytes32 nonce{};
  const StoreSecret a = StoreSecret::from_file(path), b = StoreSecret::from_file(path);
  EXPECT_EQ(a.proof("client", nonce, nonce, "run"), b.proof("client", nonce, nonce, "run"));
}

TEST(StoreSecretTest, TravelsInASealedDescriptor) {
  const StoreSecret secret = StoreSecret::random();
  const int fd = secret.to_fd();
  EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_LT(write(fd, "x", 1), 0);
  const StoreSecret copy = StoreSecret::from_fd(fd);
  const Bytes32 nonce{1};
  EXPECT_EQ(copy.proof("client", nonce, nonce, "r"), secret.proof("client", nonce, nonce, "r"));
  EXPECT_NE(copy.proof("client", nonce, nonce, "r"), secret.proof("server", nonce, nonce, "r"));
  EXPECT_NE(copy.proof("client", nonce, nonce, "r"), secret.proof("client", nonce, nonce, "s"));
  close(fd);
  EXPECT_THROW(StoreSecret::from_fd(fd), Error);
}

TEST(StoreSecretTest, ProofsDependOnEveryPart) {
  const StoreSecret secret = StoreSecret::random();
  const Bytes32 a{1}, b{2};
  EXPECT_NE(secret.proof("client", a, b, "r"), secret.proof("client", b, a, "r"));
  EXPECT_NE(secret.proof("client", a, b, "r"), StoreSecret::random().proof("client", a, b, "r"));
}

}  // namespace
}  // namespace pinion::dist
