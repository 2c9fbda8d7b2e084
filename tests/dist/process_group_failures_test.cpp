// SPDX-License-Identifier: Apache-2.0
// What the ranks hear when one of them calls something else, does not come, gives up or dies.
#include <gmock/gmock.h>
#include <signal.h>

#include <thread>

#include "dist_testing.h"
#include "pinion/dist/group/board_group.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

constexpr int kDesync = static_cast<int>(ErrorKind::desync);
constexpr int kHang = static_cast<int>(ErrorKind::hang);
constexpr int kPeerLost = static_cast<int>(ErrorKind::peer_lost);

class EitherBackend : public testing::TestWithParam<const char*> {
 protected:
  // Expects that every rank's `body` throws `kind` with the texts, and every further call too.
  void expect_all(int ranks, int kind, const testing::Matcher<std::string>& text,
                  const Body& body) const {
    run_ranks(GetParam(), ranks, [&](ProcessGroup& group) {
      std::string first, second;
      EXPECT_EQ(kind_of_error([&] { body(group); }, &first), kind);
      EXPECT_THAT(first, text);
      EXPECT_EQ(kind_of_error([&] { group.barrier().wait(); }, &second), kind);
      EXPECT_EQ(first, second);
    });
  }
};
INSTANTIATE_TEST_SUITE_P(All, EitherBackend, testing::Values("local", "shm"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(EitherBackend, AMismatchNamesBothCalls) {
  expect_all(3, kDesync,
             AllOf(HasSubstr("rank 0 called broadcast(f32, 5, root 0) as its call 2"),
                   HasSubstr("rank 1 called all_reduce(sum, f32, 5) as its call 2")),
             [](ProcessGroup& group) {
               Tensor x = Tensor::zeros({5});
               group.barrier().wait();
               (group.rank() == 1 ? group.all_reduce(x) : group.broadcast(x, 0)).wait();
             });
}

struct Mismatch {
  const char* others;  // of ranks 0 and 2
  const char* odd;     // of rank 1
  Body body;
};

TEST_P(EitherBackend, EveryPartOfTheCallIsCompared) {
  const auto odd = [](ProcessGroup& group) { return group.rank() == 1; };
  const Mismatch cases[] = {
      {"all_reduce(sum, f32, 5)", "all_reduce(sum, f32, 6)",
       [&](ProcessGroup& g) { g.all_reduce(Tensor::zeros({odd(g) ? 6 : 5})).wait(); }},
      {"all_reduce(sum, f32, 400000)", "all_reduce(sum, f32, 100)",
       [&](ProcessGroup& g) { g.all_reduce(Tensor::zeros({odd(g) ? 100 : 400'000})).wait(); }},
      {"all_reduce(sum, f32, 5)", "all_reduce(max, f32, 5)",
       [&](ProcessGroup& g) {
         g.all_reduce(Tensor::zeros({5}), odd(g) ? ReduceOp::max : ReduceOp::sum).wait();
       }},
      {"broadcast(i32, 5, root 0)", "broadcast(f32, 5, root 0)",
       [&](ProcessGroup& g) {
         g.broadcast(Tensor::zeros({5}, odd(g) ? DType::f32 : DType::i32), 0).wait();
       }},
      {"broadcast(f32, 5, root 0)", "broadcast(f32, 5, root 1)",
       [&](ProcessGroup& g) { g.broadcast(Tensor::zeros({5}), odd(g) ? 1 : 0).wait(); }},
      {"all_gather(f32, 5)", "barrier()",
       [&](ProcessGroup& g) {
         (odd(g) ? g.barrier() : g.all_gather(Tensor({15}), Tensor::zeros({5}))).wait();
       }},
      {"barrier()", "send(f32, 500000, to 0)",  // too large to be sent and forgotten
       [&](ProcessGroup& g) {
         (odd(g) ? g.send(Tensor::zeros({500'000}), 0) : g.barrier()).wait();
       }},
      {"all_reduce(sum, f32, 5)", "receive(f32, 5, from 0)",
       [&](ProcessGroup& g) {
         Tensor x = Tensor::zeros({5});
         (odd(g) ? g.receive(x, 0) : g.all_reduce(x)).wait();
       }},
  };
  for (const Mismatch& m : cases) {
    SCOPED_TRACE(m.odd);
    expect_all(3, kDesync,
               AllOf(HasSubstr(std::string("rank 0 called ") + m.others + " as its call 1"),
                     HasSubstr(std::string("rank 1 called ") + m.odd + " as its call 1")),
               m.body);
  }
}

TEST_P(EitherBackend, AMessageOfAnotherSizeOrType) {
  for (const bool size : {true, false})
    expect_all(2, kDesync,
               AllOf(HasSubstr("rank 0 called send(f32, 4, to 1) as its call 1"),
                     HasSubstr(size ? "rank 1 called receive(f32, 5, from 0) as its call 1"
                                    : "rank 1 called receive(i32, 4, from 0) as its call 1")),
               [&](ProcessGroup& group) {
                 if (group.rank() == 0) {
                   group.send(Tensor::zeros({4}), 1).wait();
                   group.barrier().wait();
                 } else {
                   group.receive(size ? Tensor({5}) : Tensor({4}, DType::i32), 0).wait();
                 }
               });
}

TEST_P(EitherBackend, ATimeoutNamesWhoIsMissingAndTheLastCalls) {
  expect_all(3, kHang,
             AllOf(HasSubstr("waited 60 ms in all_reduce(sum, f32, 3), its call 2, for rank 1;"),
                   HasSubstr("rank 0: #2 all_reduce(sum, f32, 3) has waited for"),
                   HasSubstr("rank 1: #1 barrier() took"),
                   HasSubstr("rank 2: #2 all_reduce(sum, f32, 3) has waited for")),
             [](ProcessGroup& group) {
               group.barrier().wait();
               if (group.rank() != 1) {
                 group.set_timeout(milliseconds(group.rank() == 0 ? 60 : 60'000));
                 group.all_reduce(Tensor::zeros({3})).wait();
               } else {  // works on until the others have given up
                 std::this_thread::sleep_for(milliseconds(400));
                 group.barrier().wait();
               }
             });
}

TEST_P(EitherBackend, AReceiveThatNobodyAnswersTimesOut) {
  expect_all(2, kHang,
             HasSubstr("waited 30 ms in receive(f32, 3, from 1), its call 1, for rank 1;"),
             [](ProcessGroup& group) {
               if (group.rank() == 0) group.set_timeout(milliseconds(30));
               group.receive(Tensor::zeros({3}), 1 - group.rank()).wait();
             });
}

TEST_P(EitherBackend, AnAbortFreesEveryoneWithItsReason) {
  expect_all(3, kPeerLost, HasSubstr("group: the data is gone"), [](ProcessGroup& group) {
    if (group.rank() == 2) group.abort("the data is gone");
    group.all_reduce(Tensor::zeros({100'000})).wait();
  });
}

TEST(Failures, ALauncherAbortsTheSegment) {
  const auto segment = ShmSegment::create(2);
  const auto statuses = run_processes(
      segment,
      [](ProcessGroup& group) {
        std::string text;
        Tensor x({4});
        EXPECT_EQ(kind_of_error([&] { group.receive(x, 1 - group.rank()).wait(); }, &text),
                  kPeerLost);
        EXPECT_EQ(text, "rank 7 of another host has died");
      },
      [&](const auto&) {
        for (const int r : {0, 1})
          while (segment->recent_calls(r).empty()) std::this_thread::yield();
        segment->abort("rank 7 of another host has died");
      });
  EXPECT_THAT(statuses, testing::Each(0));
}

TEST(Failures, AKilledRankIsNoticedByTheOthers) {
  for (const bool collective : {true, false}) {
    const auto segment = ShmSegment::create(3);
    const auto statuses = run_processes(segment, [&](ProcessGroup& group) {
      group.barrier().wait();
      if (group.rank() == 1) raise(SIGKILL);
      std::string text;
      EXPECT_EQ(kind_of_error(
                    [&] {
                      Tensor x = Tensor::zeros({100'000});
                      (collective ? group.all_reduce(x) : group.receive(x, 1)).wait();
                    },
                    &text),
                kPeerLost);
      EXPECT_THAT(text, AllOf(HasSubstr("rank 1 (process "), HasSubstr(") has died while rank ")));
    });
    EXPECT_EQ(statuses[0], 0);
    EXPECT_TRUE(WIFSIGNALED(statuses[1]));
    EXPECT_EQ(statuses[2], 0);
    EXPECT_THAT(segment->recent_calls(1), HasSubstr("#1 barrier() took"));  // of the dead
  }
}

// Work::done() alone finds out, too; but whoever asks may still do what another waits for.
TEST(Failures, AKilledRankIsNoticedByWhoAsksAgainAndAgain) {
  for (const bool collective : {true, false}) {
    const auto statuses = run_processes(ShmSegment::create(2), [&](ProcessGroup& group) {
      group.barrier().wait();
      if (group.rank() == 1) {
        std::this_thread::sleep_for(milliseconds(20));
        raise(SIGKILL);
      }
      Tensor x = Tensor::zeros({100'000});
      Work work = collective ? group.all_reduce(x) : group.receive(x, 1);
      while (!work.done()) std::this_thread::yield();
      std::string text;
      EXPECT_EQ(kind_of_error([&] { work.wait(); }, &text), kPeerLost);
      EXPECT_THAT(text, AllOf(HasSubstr("rank 1 (process "), HasSubstr(") has died while rank 0")));
    });
    EXPECT_EQ(statuses[0], 0);
  }
}

TEST_P(EitherBackend, AskingTimesOutToo) {
  expect_all(2, kHang,
             HasSubstr("waited 30 ms in receive(f32, 3, from 1), its call 1, for rank 1;"),
             [](ProcessGroup& group) {
               if (group.rank() == 0) group.set_timeout(milliseconds(30));
               Work work = group.receive(Tensor::zeros({3}), 1 - group.rank());
               while (!work.done()) std::this_thread::yield();
               work.wait();
             });
}

TEST_P(EitherBackend, WhoAsksMayStillDoWhatAnotherWaitsFor) {
  run_ranks(GetParam(), 2, [](ProcessGroup& group) {
    Tensor x = Tensor::zeros({3});
    if (group.rank() == 1) {
      group.barrier().wait();
      group.send(Tensor::full({3}, 1), 0).wait();
      return;
    }
    Work work = group.receive(x, 1);
    const auto asked_until = std::chrono::steady_clock::now() + milliseconds(40);
    while (std::chrono::steady_clock::now() < asked_until) EXPECT_FALSE(work.done());
    group.barrier().wait();
    work.wait();
    EXPECT_EQ(x.values<float>(), (std::vector<float>{1, 1, 1}));
  });
}

// One that has ended its group in order is none of those.
TEST(Failures, AKilledRankIsNoticedByWhoWaitsForSomethingElse) {
  const auto statuses = run_processes(ShmSegment::create(3), [](ProcessGroup& group) {
    group.barrier().wait();
    if (group.rank() == 2) return;
    if (group.rank() == 1) {
      std::this_thread::sleep_for(milliseconds(20));
      raise(SIGKILL);
    }
    std::string text;
    const auto wait = [&] {
      for (;;) dynamic_cast<BoardGroup&>(group).check_peers();
    };
    EXPECT_EQ(kind_of_error(wait, &text), kPeerLost);
    EXPECT_THAT(text, AllOf(HasSubstr("rank 1 (process "), HasSubstr(") has died")));
  });
  EXPECT_EQ(statuses[0], 0);
}

TEST(Failures, ARankThatDiesBeforeItJoins) {
  const auto segment = ShmSegment::create(2);
  std::string text;
  const pid_t child = fork();
  if (child == 0) {
    segment->board().rank(1).pid.store(getpid());
    segment->board().rank(1).joined.store(1);
    _exit(0);
  }
  EXPECT_EQ(kind_of_error([&] { (*make_shm_group(segment, 0)).barrier().wait(); }, &text),
            kPeerLost);
  waitpid(child, nullptr, 0);
  EXPECT_THAT(text, HasSubstr("rank 1 (process"));
}

TEST(Failures, WhoDoesNotJoinIsNamed) {
  std::string text;
  EXPECT_EQ(
      kind_of_error([&] { make_shm_group(ShmSegment::create(3), 0, milliseconds(20)); }, &text),
      kHang);
  EXPECT_EQ(text, "shm group: waited 20 ms for rank 1, 2 to join");
}

// A rank that has finished its program is missed only by those that need it.
TEST(Failures, ARankThatEndsEarly) {
  const auto statuses = run_processes(ShmSegment::create(2), [](ProcessGroup& group) {
    group.all_reduce(Tensor::zeros({3})).wait();
    if (group.rank() == 1) return;
    std::string text;
    EXPECT_EQ(kind_of_error([&] { group.all_reduce(Tensor::zeros({3})).wait(); }, &text),
              kPeerLost);
    EXPECT_THAT(text, HasSubstr("rank 1 has ended its group while rank 0 waited in all_reduce"));
  });
  EXPECT_THAT(statuses, testing::Each(0));
}

TEST(ShmSegment, RefusesADescriptorOfSomethingElse) {
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  EXPECT_EQ(kind_of_error([&] { ShmSegment::open(pipes[0]); }),
            static_cast<int>(ErrorKind::config));
  for (const char* text : {"x", "", "-1", "3 ", "999"}) {
    setenv("PINION_SHM_FD", text, 1);
    EXPECT_EQ(kind_of_error([] { ShmSegment::from_environment(); }),
              static_cast<int>(ErrorKind::config))
        << text;
  }
  unsetenv("PINION_SHM_FD");
  close(pipes[0]);
  close(pipes[1]);
}

TEST(ShmSegment, TooLargeATensorIsAnError) {
  const auto statuses = run_processes(ShmSegment::create(1, 1 << 20), [](ProcessGroup& group) {
    std::string text;
    EXPECT_EQ(kind_of_error([&] { group.symmetric({1 << 20}, DType::f32, {}); }, &text),
              static_cast<int>(ErrorKind::out_of_memory));
    EXPECT_THAT(text, HasSubstr("4194304 bytes in the heap of rank 0, which has 1048576"));
  });
  EXPECT_THAT(statuses, testing::Each(0));
}

// Where huge pages can hold them, with small blocks before and between.
TEST(ShmSegment, LargeBlocksBeginOnHugePages) {
  constexpr int64_t kHuge = 2 << 20;
  const auto segment = ShmSegment::create(1, 5 * kHuge);
  std::byte* small = segment->allocate(0, 100);
  std::byte* large = segment->allocate(0, kHuge + 5000);
  std::byte* next = segment->allocate(0, 100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large) % kHuge, 0U);
  EXPECT_EQ(next - small, 4096) << "the gap before a large block is used";
  for (int64_t i = 0; i < kHuge + 5000; ++i) ASSERT_EQ(large[i], std::byte{0}) << i;
  std::memset(large, 1, kHuge + 5000);
  segment->release(small, 100);
  segment->release(large, kHuge + 5000);
  segment->release(next, 100);
  std::byte* all = segment->allocate(0, 5 * kHuge);  // the heap is whole again
  for (int64_t i = 0; i < 5 * kHuge; ++i) ASSERT_EQ(all[i], std::byte{0}) << i;
  segment->release(all, 5 * kHuge);
}

}  // namespace
}  // namespace pinion::dist
