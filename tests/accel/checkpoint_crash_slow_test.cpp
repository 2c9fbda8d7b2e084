// SPDX-License-Identifier: Apache-2.0
// Checkpoints on a file system in memory that dies, loses power or fails at every single call: what
// is found afterwards is always a whole checkpoint, the old one or the new one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory_fs.h"
#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/accel/checkpoint/parts.h"
#include "pinion/runtime/log.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

constexpr const char* kRoot = "/run/checkpoints";

// A part whose whole content says at which step it was saved.
struct Stamp {
  int64_t step = -1;
  int64_t salt = 0;  // tells two saves of one step apart
  FunctionPart part{[this] {
                      State s;
                      s.put("weight", Tensor::full({40}, static_cast<double>(step + salt)));
                      s.put("step", step);
                      s.put("salt", salt);
                      return s;
                    },
                    [this](const State& s) {
                      step = s.integer("step"), salt = s.integer("salt");
                      for (const float w : s.tensor("weight").values<float>())
                        ASSERT_EQ(w, static_cast<float>(step + salt));
                    }};
};

CheckpointOptions options_of(int64_t keep) { return {.root = kRoot, .keep_last = keep}; }

// Saves in turn; says which of them returned.
std::vector<int64_t> save_all(const CheckpointOptions& options, const std::vector<int64_t>& steps,
                              int64_t salt) {
  std::vector<int64_t> done;
  try {
    Stamp stamp;
    stamp.salt = salt;
    Checkpoints checkpoints(options);
    checkpoints.add("stamp", stamp.part, {.weights = true});
    for (const int64_t step : steps) {
      stamp.step = step;
      checkpoints.save(step);
      done.push_back(step);
    }
    checkpoints.close();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::io) << e.what();
  }
  return done;
}

struct Found {
  int64_t step = -1, salt = 0;
};
Found resume_from(MemoryFs& disk, int64_t keep) {
  const FsGuard guard(disk);
  Stamp stamp;
  Checkpoints checkpoints(options_of(keep));
  checkpoints.add("stamp", stamp.part, {.weights = true});
  const auto step = checkpoints.resume();
  EXPECT_EQ(step.value_or(-1), stamp.step);
  for (const std::string& name : list_dir(kRoot))  // nothing half done stays
    EXPECT_TRUE(name == ".lock" || name.starts_with("step-")) << name;
  return {step.value_or(-1), stamp.salt};
}

std::unique_ptr<MemoryFs> disk_with(int64_t keep, const std::vector<int64_t>& steps) {
  MemoryFs fs;
  if (steps.empty()) return fs.after_kill();  // not even the directory
  const FsGuard guard(fs);
  EXPECT_EQ(save_all(options_of(keep), steps, 0).size(), steps.size());
  return fs.after_kill();
}

// What is there after a crash must be: something, no older than the last save that returned; and
// a save of a step again gives the old or the new contents.
void check(MemoryFs& disk, int64_t keep, int64_t before, const std::vector<int64_t>& done) {
  const Found found = resume_from(disk, keep);
  const int64_t least = done.empty() ? before : done.back();
  EXPECT_GE(found.step, least);
  const bool is_new = found.step != before || !done.empty();
  EXPECT_EQ(found.salt, is_new ? 100 : found.salt);
}

struct Scene {
  const char* name;
  std::vector<int64_t> there, saved;  // steps
};
const std::vector<Scene> kScenes = {
    {"the first", {}, {1}},
    {"a next one", {1}, {2}},
    {"several", {1, 2}, {3, 4, 5}},
    {"a step again", {1, 2}, {2, 2}},
};

template <class F>
void at_every_crash(F&& f) {
  set_log_level(LogLevel::error);
  for (const int64_t keep : {1, 2, 3})
    for (const Scene& scene : kScenes)
      for (int64_t k = 1;; ++k) {
        SCOPED_TRACE(testing::Message() << scene.name << ", keeping " << keep << ", dead at " << k);
        const auto fs = disk_with(keep, scene.there);
        fs->die_at(k);
        std::vector<int64_t> done;
        {
          const FsGuard guard(*fs);
          done = save_all(options_of(keep), scene.saved, 100);
        }
        f(*fs, keep, scene.there.empty() ? -1 : scene.there.back(), done);
        if (!fs->dead() || testing::Test::HasFailure()) break;
        ASSERT_LT(k, 1000);
      }
}

TEST(CheckpointCrash, AKillAtAnyCallLeavesAWholeCheckpoint) {
  int states = 0;
  at_every_crash([&](MemoryFs& fs, int64_t keep, int64_t before, const auto& done) {
    check(*fs.after_kill(), keep, before, done);
    ++states;
  });
  EXPECT_GT(states, 300);
}

TEST(CheckpointCrash, ALossOfPowerAtAnyCallLeavesAWholeCheckpoint) {
  std::mt19937 random(11);
  int states = 0;
  at_every_crash([&](MemoryFs& fs, int64_t keep, int64_t before, const auto& done) {
    using Unsynced = MemoryFs::Unsynced;
    check(*fs.after_power_loss(Unsynced::all, random), keep, before, done);
    check(*fs.after_power_loss(Unsynced::none, random), keep, before, done);
    for (int i = 0; i < 10; ++i)
      check(*fs.after_power_loss(Unsynced::random, random), keep, before, done);
    states += 12;
  });
  EXPECT_GT(states, 4500);
}

// A second crash, of the run that found what the first one left, is no worse.
TEST(CheckpointCrash, CrashesMayFollowEachOther) {
  set_log_level(LogLevel::error);
  std::mt19937 random(12);
  auto disk = disk_with(1, {1});
  int64_t newest = 1;
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    disk->die_at(1 + static_cast<int64_t>(random() % 30));
    std::vector<int64_t> done;
    {
      const FsGuard guard(*disk);
      done = save_all(options_of(1), {newest + 1, newest + 2}, 100);
    }
    disk = disk->after_power_loss(MemoryFs::Unsynced::random, random);
    const int64_t least = done.empty() ? newest : done.back();
    newest = resume_from(*disk, 1).step;
    EXPECT_GE(newest, least);
    disk = disk->after_kill();
  }
  EXPECT_GT(newest, 100);
}

TEST(CheckpointCrash, AnErrorOfAnyCallLeavesTheOldOneAndNothingElse) {
  set_log_level(LogLevel::error);
  int failures = 0;
  for (const int error : {ENOSPC, EIO, EDQUOT, EROFS})
    for (int64_t k = 1;; ++k) {
      SCOPED_TRACE(testing::Message() << strerror(error) << " at call " << k);
      const auto fs = disk_with(2, {1, 2});
      bool thrown = false;
      {
        const FsGuard guard(*fs);
        Stamp stamp;
        Checkpoints checkpoints(options_of(2));
        checkpoints.add("stamp", stamp.part, {.weights = true});
        stamp.step = 3, stamp.salt = 100;
        fs->fail_at(k, error);
        try {
          checkpoints.save(3);
        } catch (const Error& e) {
          thrown = true;
          EXPECT_EQ(e.kind(), ErrorKind::io);
          EXPECT_THAT(e.what(), testing::HasSubstr(strerror(error)));
        }
        const bool failed = fs->failed();
        fs->fail_at(0, 0);
        EXPECT_EQ(fs->open_files(), 1u);  // the lock
        for (const std::string& name : list_dir(kRoot)) EXPECT_FALSE(name.starts_with(".tmp-"));
        if (!failed) break;
        failures += thrown;
        // The next save does what this one could not.
        stamp.step = 4;
        checkpoints.save(4);
        EXPECT_EQ(checkpoint_steps(kRoot)[0], 4);
        checkpoints.close();
        for (const std::string& name : list_dir(kRoot))
          EXPECT_TRUE(name == ".lock" || name.starts_with("step-")) << name;
      }
      EXPECT_EQ(resume_from(*fs, 2).step, 4);
      ASSERT_LT(k, 1000);
    }
  EXPECT_GT(failures, 4 * 15);
}

TEST(CheckpointCrash, EveryFlippedBitIsRefused) {
  const auto fs = disk_with(1, {1});
  const FsGuard guard(*fs);
  Stamp stamp;
  Checkpoints checkpoints({.root = "/other"});
  checkpoints.add("stamp", stamp.part, {.weights = true});
  const std::string where = std::string(kRoot) + "/step-1";
  const std::vector<std::string> names = list_dir(where);
  EXPECT_EQ(names.size(), 3u);
  std::mt19937 random(3);
  for (int i = 0; i < 4000; ++i) {
    const std::string& name = names[random() % names.size()];
    std::string& bytes = *fs->contents(where + "/" + name);
    const size_t bit = random() % (bytes.size() * 8);
    const auto flip = [&] {
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    };
    flip();
    const Error error = error_of([&] { checkpoints.load(where); });
    EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
    EXPECT_THAT(error.what(), testing::HasSubstr(name));
    flip();
  }
  EXPECT_EQ(checkpoints.load(where), 1);
}

TEST(CheckpointCrash, AnErrorOfReadingPassesOnToTheOlderOne) {
  set_log_level(LogLevel::error);
  int older = 0;
  for (int64_t k = 1;; ++k) {
    SCOPED_TRACE(k);
    const auto fs = disk_with(2, {1, 2});
    const FsGuard guard(*fs);
    Stamp stamp;
    Checkpoints checkpoints(options_of(2));
    checkpoints.add("stamp", stamp.part, {.weights = true});
    fs->fail_at(k, EIO);
    try {
      const int64_t step = checkpoints.resume().value_or(-1);
      EXPECT_EQ(step, stamp.step);
      older += step == 1;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::io);
    }
    if (!fs->failed()) break;
    ASSERT_LT(k, 1000);
  }
  EXPECT_GT(older, 10);
}

}  // namespace
}  // namespace pinion::accel
