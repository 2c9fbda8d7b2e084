// SPDX-License-Identifier: Apache-2.0
// Which backend joins the ranks of a world, and what it says about worlds that it cannot join.
#include <gmock/gmock.h>

#include "dist_testing.h"
#include "pinion/dist/world.h"

namespace pinion::dist {
namespace {

using testing::HasSubstr;

World world_of(int rank, int size) {
  World world;
  world.rank = world.local_rank = rank;
  world.size = world.local_size = size;
  world.launcher = "torchrun";
  return world;
}

TEST(InitProcessGroup, OneRankNeedsNobody) {
  const auto group = init_process_group(World{}, {});
  Tensor x = Tensor::full({3}, 7), all({3});
  group->all_reduce(x, ReduceOp::mean).wait();
  group->all_gather(all, x).wait();
  group->barrier().wait();
  EXPECT_EQ(all.values<float>(), std::vector<float>(3, 7));
}

// What a rank that failed there would have thrown is its exit status.
void expect_sum(const std::function<void()>& before) {
  std::vector<pid_t> children;
  for (int r = 0; r < 2; ++r) {
    const pid_t child = fork();
    if (child == 0)
      _exit(kind_of_error([&] {
        before();
        const auto group = init_process_group(world_of(r, 2), {});
        Tensor x = Tensor::full({1}, 1);
        group->all_reduce(x).wait();
        PINION_CHECK(x.item() == 2 && std::string(group->backend()) == "shm", "a sum on shm");
      }));
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

TEST(InitProcessGroup, TheSegmentOfTheLauncherIsUsed) {
  const auto segment = ShmSegment::create(2);
  expect_sum([&] { setenv("PINION_SHM_FD", std::to_string(segment->fd()).c_str(), 1); });
  EXPECT_EQ(segment->board().rank(1).joined.load(), 1U);
}

TEST(InitProcessGroup, OtherwiseTheRanksMeet) {
  const std::string id = "init" + std::to_string(getpid());
  expect_sum([&] {
    unsetenv("PINION_SHM_FD");
    setenv("PINION_RUN_ID", id.c_str(), 1);
  });
}

TEST(InitProcessGroup, SaysWhatItCannotJoin) {
  World hosts = world_of(0, 4);
  hosts.local_size = 2;
  std::string text;
  EXPECT_EQ(kind_of_error([&] { init_process_group(hosts, {}); }, &text),
            static_cast<int>(ErrorKind::config));
  EXPECT_EQ(text,
            "shm: expected all ranks on one host, got 2 of 4 here; CPU ranks on several "
            "hosts meet under mpirun");
  const auto segment = ShmSegment::create(3);
  setenv("PINION_SHM_FD", std::to_string(segment->fd()).c_str(), 1);
  EXPECT_EQ(kind_of_error([&] { init_process_group(world_of(0, 2), {}); }, &text),
            static_cast<int>(ErrorKind::config));
  EXPECT_THAT(text, HasSubstr("expected a segment for 2 ranks, got one for 3"));
  unsetenv("PINION_SHM_FD");
}

}  // namespace
}  // namespace pinion::dist
