// SPDX-License-Identifier: Apache-2.0
// Checkpoints of several ranks: slices that any number of ranks reads, one checkpoint that all of
// them agree on, errors that all of them see; saving in the background.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <mutex>
#include <thread>

#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/accel/checkpoint/parts.h"
#include "pinion/accel/rank_talk.h"
#include "pinion/accel/signals.h"
#include "pinion/dist/group/local_group.h"
#include "pinion/runtime/log.h"
#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kElements = 11;

// The piece of a rank, in a tensor of [11]: as equal as they come, the last ones empty maybe.
Slice slice_of(int rank, int size, int64_t& count) {
  const int64_t each = (kElements + size - 1) / size;
  const int64_t begin = std::min(kElements, rank * each);
  count = std::min(kElements, begin + each) - begin;
  return {{kElements}, begin};
}

// A rank with a part of each placement.
struct Rank {
  Rank(int r, int n) : rank(r), size(n) {}
  int rank, size;
  double base = 0;  // element i of the sharded tensor is base + i
  bool own = true;  // the rank has something of its own
  bool broken = false;

  State shards() {
    int64_t count = 0;
    Slice slice = slice_of(rank, size, count);
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i)
      values.push_back(static_cast<float>(base + static_cast<double>(slice.offset + i)));
    if (broken) slice.offset = kElements;
    State s;
    s.put("exp_avg", Tensor::of(values, {count}), slice);
    s.put("lr", Tensor::of<double>({0.5}, {}));
    s.put("updates", 3);
    return s;
  }
  FunctionPart sharded{[this] { return shards(); },
                       [this](const State& s) {
                         int64_t count = 0;
                         const Slice slice = slice_of(rank, size, count);
                         const auto got = s.tensor("exp_avg").values<float>();
                         ASSERT_EQ(static_cast<int64_t>(got.size()), count);
                         if (count > 0) base = got[0] - static_cast<double>(slice.offset);
                         for (size_t i = 0; i < got.size(); ++i)
                           EXPECT_EQ(got[i],
                                     static_cast<float>(base + static_cast<double>(slice.offset) +
                                                        static_cast<double>(i)));
                         EXPECT_EQ(s.tensor("lr").item(), 0.5);
                         EXPECT_EQ(s.integer("updates"), 3);
                       }};
  FunctionPart mine{[this] {
                      State s;
                      s.open = true;
                      if (own) s.put("rank", rank);
                      return s;
                    },
                    [this](const State& s) {
                      own = !s.values.empty();
                      EXPECT_EQ(own ? s.integer("rank") : rank, rank);
                    }};
  Tensor live = Tensor::full({3}, 2);
  FunctionPart same{[this] {
                      State s;
                      s.put("weight", live);
                      return s;
                    },
                    [](const State& s) {
                      EXPECT_EQ(s.tensor("weight").values<float>(), std::vector<float>(3, 2));
                    }};
  void add_to(Checkpoints& c) {
    c.add("model", same, {.weights = true});
    c.add("optimizer", sharded, {.placement = Placement::sharded});
    c.add("mine", mine, {.placement = Placement::per_rank});
  }
};

void save(const std::string& root, int size, const std::vector<int64_t>& steps, bool own) {
  dist::run_local(size, [&](dist::ProcessGroup& group) {
    Rank rank(group.rank(), size);
    rank.own = own;
    Checkpoints checkpoints({.root = root, .keep_last = 3}, &group);
    rank.add_to(checkpoints);
    for (const int64_t step : steps) {
      rank.base = static_cast<double>(step * 100);
      checkpoints.save(step);
    }
    checkpoints.close();
  });
}

// The step that all ranks agreed on.
int64_t resume(const std::string& root, int size, bool allow) {
  int64_t out = -2;
  std::mutex mutex;
  dist::run_local(size, [&](dist::ProcessGroup& group) {
    Rank rank(group.rank(), size);
    Checkpoints checkpoints({.root = root, .allow_world_size_change = allow}, &group);
    rank.add_to(checkpoints);
    const int64_t step = checkpoints.resume().value_or(-1);
    const std::lock_guard lock(mutex);
    EXPECT_TRUE(out == -2 || out == step);
    out = step;
    int64_t count = 0;
    slice_of(rank.rank, size, count);
    EXPECT_TRUE(step < 0 || count == 0 || rank.base == static_cast<double>(step * 100));
  });
  return out;
}

TEST(CheckpointRanks, SlicesAreReadByAnyNumberOfRanks) {
  for (const int writers : {1, 2, 3, 4})
    for (const int readers : {1, 2, 3, 4}) {
      SCOPED_TRACE(testing::Message() << writers << " to " << readers);
      const TempDir dir;
      save(dir / "c", writers, {4}, false);
      EXPECT_EQ(resume(dir / "c", readers, true), 4);
      if (writers != readers) {
        const Error error = error_of([&] { resume(dir / "c", readers, false); });
        EXPECT_EQ(error.exit_code(), 80);
        EXPECT_THAT(error.what(), HasSubstr("was saved by " + std::to_string(writers) + " ranks"));
      }
    }
}

TEST(CheckpointRanks, WhatIsARanksOwnStaysWithIt) {
  const TempDir dir;
  save(dir / "c", 3, {4}, true);
  EXPECT_EQ(resume(dir / "c", 3, true), 4);
  EXPECT_THAT(error_of([&] { resume(dir / "c", 2, true); }).what(), HasSubstr("'mine'"));
}

TEST(CheckpointRanks, AllTakeTheOneThatVerifiesOnAll) {
  set_log_level(LogLevel::error);
  const TempDir dir;
  save(dir / "c", 3, {2, 4, 6}, true);
  const auto damage = [&](const std::string& name) {
    const std::string path = dir / "c/" + name;
    std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  };
  damage("step-6/shard-2.safetensors");
  EXPECT_EQ(resume(dir / "c", 3, false), 4);
  damage("step-4/state-1.json");
  EXPECT_EQ(resume(dir / "c", 3, false), 2);
  damage("step-2/MANIFEST.json");
  EXPECT_EQ(error_of([&] { resume(dir / "c", 3, false); }).exit_code(), 80);
}

TEST(CheckpointRanks, AnErrorOfOneIsAnErrorOfAll) {
  for (const bool async : {false, true}) {
    const TempDir dir;
    save(dir / "c", 2, {1}, true);
    std::mutex mutex;
    std::vector<std::string> errors(2);
    dist::run_local(2, [&](dist::ProcessGroup& group) {
      Rank rank(group.rank(), 2);
      Checkpoints checkpoints({.root = dir / "c", .async = async}, &group);
      rank.add_to(checkpoints);
      rank.broken = group.rank() == 1;
      const Error error = error_of([&] {
        checkpoints.save(2);
        checkpoints.wait();
      });
      rank.broken = false;
      checkpoints.save(3);
      checkpoints.close();
      const std::lock_guard lock(mutex);
      errors[static_cast<size_t>(group.rank())] = error.what();
    });
    EXPECT_THAT(errors[0], AllOf(HasSubstr("rank 1: "), HasSubstr("slice inside of")));
    EXPECT_THAT(errors[1], AllOf(HasSubstr("slice inside of"), testing::Not(HasSubstr("rank 1"))));
    EXPECT_THAT(list_dir(dir / "c"), testing::ElementsAre(".lock", "step-1", "step-3"));
  }
}

TEST(CheckpointRanks, ASecondRunIsRefusedOnEveryRank) {
  const TempDir dir;
  Checkpoints holder({.root = dir / "c"});
  std::mutex mutex;
  int refused = 0;
  dist::run_local(3, [&](dist::ProcessGroup& group) {
    const Error error = error_of([&] { Checkpoints c({.root = dir / "c"}, &group); });
    const std::lock_guard lock(mutex);
    refused += error.kind() == ErrorKind::checkpoint;
    EXPECT_THAT(error.what(), HasSubstr("in use by process"));
  });
  EXPECT_EQ(refused, 3);
}

TEST(CheckpointRanks, SavesInTheBackgroundWhatWasThereWhenAsked) {
  for (const int size : {1, 3}) {
    const TempDir dir;
    dist::run_local(size, [&](dist::ProcessGroup& group) {
      Rank rank(group.rank(), size);
      Checkpoints checkpoints({.root = dir / "c", .async = true}, &group);
      rank.add_to(checkpoints);
      for (int64_t step = 1; step <= 6; ++step) {
        rank.base = static_cast<double>(step * 100);
        rank.live.copy_(Tensor::full({3}, 2));
        checkpoints.save(step);  // while the one before is under way
        rank.base = -1;
        rank.live.copy_(Tensor::full({3}, -1));
      }
      while (!checkpoints.poll()) std::this_thread::yield();
      EXPECT_EQ(checkpoints.last_step(), 6);
      EXPECT_TRUE(checkpoints.poll());
      checkpoints.close();
    });
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{6, 5}));
    EXPECT_EQ(resume(dir / "c", size, false), 6);
  }
}

TEST(CheckpointRanks, MergesSlicesIntoOneFile) {
  const TempDir dir;
  save(dir / "c", 3, {2}, true);
  merge_part(dir / "c/step-2", "optimizer", dir / "merged.safetensors");
  const SafetensorsContents merged = load_safetensors(dir / "merged.safetensors");
  ASSERT_EQ(merged.tensors.size(), 2u);
  for (const NamedTensor& t : merged.tensors) {
    if (t.name != "exp_avg") continue;
    const auto values = t.tensor.values<float>();
    for (int64_t i = 0; i < kElements; ++i)
      EXPECT_EQ(values[static_cast<size_t>(i)], static_cast<float>(200 + i));
  }
  EXPECT_THAT(error_of([&] { merge_part(dir / "c/step-2", "none", dir / "x"); }).what(),
              HasSubstr("'none' is missing"));
}

TEST(Signals, AskForACheckpoint) {
  {
    const SignalGuard guard;
    EXPECT_EQ(SignalGuard::take(), SaveRequest::none);
    raise(SIGUSR2);
    EXPECT_EQ(SignalGuard::pending(), SaveRequest::save);
    EXPECT_EQ(SignalGuard::take(), SaveRequest::save);
    EXPECT_EQ(SignalGuard::take(), SaveRequest::none);
    for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
      raise(signal);
      raise(SIGUSR2);
      EXPECT_EQ(SignalGuard::take(), SaveRequest::save_and_exit);
    }
    EXPECT_EQ(SignalGuard::take(), SaveRequest::save_and_exit);  // it stays
  }
  const SignalGuard again;
  EXPECT_EQ(SignalGuard::take(), SaveRequest::none);
  EXPECT_EQ(error_of([] { end_preempted(7); }).exit_code(), 75);
  EXPECT_THROW(SignalGuard(), Error);
}

TEST(Signals, OfOneRankReachAll) {
  const SignalGuard guard;
  raise(SIGUSR2);
  std::atomic<int> saves{0};
  dist::run_local(3, [&](dist::ProcessGroup& group) {
    const SaveRequest got = SignalGuard::take_agreed(group);
    saves += got == SaveRequest::save;
  });
  EXPECT_EQ(saves, 3);
}

}  // namespace
}  // namespace pinion::accel
