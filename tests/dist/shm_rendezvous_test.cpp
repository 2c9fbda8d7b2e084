// SPDX-License-Identifier: Apache-2.0
// Ranks that find each other by a name: who comes late, who does not come, who does not belong.
#include "pinion/dist/group/shm_rendezvous.h"

#include <gmock/gmock.h>

#include <map>
#include <thread>

#include "dist_testing.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

std::string unique_name(const char* test) { return test + std::to_string(getpid()); }

// One process for each entry, which meets as that rank of that many.
std::vector<int> meet(const std::string& name, const std::vector<std::pair<int, int>>& ranks,
                      milliseconds timeout) {
  std::vector<pid_t> children;
  for (const auto& [rank, size] : ranks) {
    const pid_t child = fork();
    if (child == 0) {
      if (rank == 0) std::this_thread::sleep_for(milliseconds(20));  // the others must wait
      _exit(kind_of_error([&, r = rank, n = size] {
        const auto group = make_shm_group(meet_on_host(name, r, n, timeout), r);
        Tensor x = Tensor::full({1}, 1);
        group->all_reduce(x).wait();
        PINION_CHECK(x.item() == n, "a sum of ", n);
      }));
    }
    children.push_back(child);
  }
  std::vector<int> codes;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  }
  return codes;
}

constexpr int kConfig = static_cast<int>(ErrorKind::config);
constexpr int kHang = static_cast<int>(ErrorKind::hang);

TEST(ShmRendezvous, RanksMeet) {
  EXPECT_THAT(meet(unique_name("meet"), {{0, 3}, {1, 3}, {2, 3}}, milliseconds(20'000)),
              testing::ElementsAre(0, 0, 0));
}

TEST(ShmRendezvous, AMissingRankIsAHang) {
  EXPECT_THAT(meet(unique_name("few"), {{0, 3}}, milliseconds(30)), testing::ElementsAre(kHang));
  EXPECT_THAT(meet(unique_name("no"), {{1, 2}}, milliseconds(30)), testing::ElementsAre(kHang));
}

TEST(ShmRendezvous, RanksThatDisagreeAboutTheirNumber) {
  EXPECT_THAT(meet(unique_name("size"), {{0, 2}, {1, 3}}, milliseconds(20'000)),
              testing::ElementsAre(kConfig, kConfig));
}

TEST(ShmRendezvous, TwoRunsUnderOneName) {
  const auto codes = meet(unique_name("two"), {{0, 2}, {0, 2}}, milliseconds(300));
  EXPECT_THAT(codes, testing::UnorderedElementsAre(kConfig, kHang));
}

TEST(ShmRendezvous, TheNameComesFromTheEnvironment) {
  std::map<std::string, const char*> environment;
  const auto get = [&](const char* name) {
    const auto at = environment.find(name);
    return at == environment.end() ? nullptr : at->second;
  };
  EXPECT_EQ(kind_of_error([&] { rendezvous_name(get); }), kConfig);
  environment = {{"MASTER_ADDR", "localhost"}, {"MASTER_PORT", "29500"}, {"RANK", "1"}};
  const std::string one = rendezvous_name(get);
  environment["RANK"] = "0";
  EXPECT_EQ(rendezvous_name(get), one);
  environment["MASTER_PORT"] = "29501";
  EXPECT_NE(rendezvous_name(get), one);
}

}  // namespace
}  // namespace pinion::dist
