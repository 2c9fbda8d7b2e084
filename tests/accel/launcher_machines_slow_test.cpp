// SPDX-License-Identifier: Apache-2.0
// Launchers of two machines: how they meet, fail, are told to stop, and lose each other.
#include <sys/stat.h>

#include <cstring>

#include "launcher_testing.h"
#include "pinion/dist/store/socket.h"

namespace pinion {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class MachinesTest : public LauncherTest {
 protected:
  MachinesTest() {
    secret_ = dir_ / "secret";
    write_file_atomic(secret_, std::string(40, 's'));
    chmod(secret_.c_str(), 0600);
    port_ = std::to_string(dist::port_of(dist::local_address(dist::listen_on("127.0.0.1:0"))));
  }
  pid_t machine(int rank, const std::vector<std::string>& arguments,
                std::vector<std::string> more = {}) const {
    more.insert(more.begin(),
                {"--num_machines=2", "--num_processes=4", "--main_process_ip=127.0.0.1",
                 "--main_process_port=" + port_, "--machine_rank=" + std::to_string(rank)});
    return start(more, arguments, "machine" + std::to_string(rank),
                 {"PINION_RDZV_SECRET_FILE=" + secret_});
  }
  Result end_of(int rank, pid_t child) const {
    return finish(child, "machine" + std::to_string(rank));
  }

  std::string secret_, port_;
};

TEST_F(MachinesTest, MeetWhoeverComesFirst) {
  const std::vector<std::string> env = {"env",        "RANK",        "LOCAL_RANK",   "WORLD_SIZE",
                                        "GROUP_RANK", "MASTER_PORT", "PINION_SHM_FD"};
  const pid_t second = machine(1, env);
  usleep(30'000);
  const Result a = end_of(0, machine(0, env)), b = end_of(1, second);
  EXPECT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(b.code, 0) << b.err;
  EXPECT_EQ(sorted_lines(b.out),
            "[rank 2] GROUP_RANK=1\n[rank 2] LOCAL_RANK=0\n[rank 2] MASTER_PORT=" + port_ +
                "\n[rank 2] PINION_SHM_FD=-\n[rank 2] RANK=2\n[rank 2] WORLD_SIZE=4\n" +
                "[rank 3] GROUP_RANK=1\n[rank 3] LOCAL_RANK=1\n[rank 3] MASTER_PORT=" + port_ +
                "\n[rank 3] PINION_SHM_FD=-\n[rank 3] RANK=3\n[rank 3] WORLD_SIZE=4\n");
}

TEST_F(MachinesTest, AFailureIsEverybodys) {
  for (const std::string victim : {"0", "3"}) {
    const pid_t a = machine(0, {"cause", "signal", dir_.path(), victim});
    const pid_t b = machine(1, {"cause", "signal", dir_.path(), victim});
    for (const Result& r : {end_of(0, a), end_of(1, b)}) {
      EXPECT_EQ(r.code, 137) << r.err;
      EXPECT_THAT(r.err, HasSubstr(": rank " + victim + " (pid "));
    }
    remove_file(dir_ / "victim");
  }
}

TEST_F(MachinesTest, AMachineThatDiesIsALostPeer) {
  const pid_t a = machine(0, {"wait", dir_.path()}), b = machine(1, {"wait", dir_.path()});
  const std::vector<pid_t> all = pids(4);
  kill(a, SIGKILL);  // and the store with it
  const Result r = end_of(1, b);
  EXPECT_EQ(r.code, 76) << r.err;
  end_of(0, a);
  for (const pid_t pid : all) EXPECT_TRUE(gone(pid));
}

// A signal to one launcher is meant for all: both end with its code, and neither starts again.
TEST_F(MachinesTest, ASignalToOneStopsAll) {
  for (const int victim : {0, 1})
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1}) {
      SCOPED_TRACE(testing::Message() << "signal " << signal << " to machine " << victim);
      const TempDir dir;
      const std::vector<std::string> more = {"--max_restarts=3", "--grace_period=1"};
      const std::vector<std::string> arguments = {"wait", dir.path()};
      const pid_t launchers[] = {machine(0, arguments, more), machine(1, arguments, more)};
      for (int r = 0; r < 4; ++r)
        while (!exists(dir / ("pids_" + std::to_string(r)))) usleep(1000);
      kill(launchers[victim], signal);
      const Result results[] = {end_of(0, launchers[0]), end_of(1, launchers[1])};
      const bool saved = signal == SIGTERM || signal == SIGUSR1;
      for (const Result& r : results) {
        EXPECT_EQ(r.code, saved ? 75 : 128 + signal) << r.err;
        EXPECT_THAT(r.err, Not(HasSubstr("restart")));
      }
      EXPECT_TRUE(nobody_is_left());
    }
}

// Nothing runs yet, so there is nobody to hand the signal on to.
TEST_F(MachinesTest, ASignalEndsTheWaitForOthers) {
  for (const int rank : {0, 1}) {
    const pid_t alone = machine(rank, {"env"}, {"--rdzv_conf=timeout=60"});
    while (folder_is_clean()) usleep(1000);
    usleep(100'000);  // until it waits
    kill(alone, SIGINT);
    EXPECT_EQ(end_of(rank, alone).code, 128 + SIGINT);
    EXPECT_TRUE(nobody_is_left());
    EXPECT_TRUE(folder_is_clean());
  }
}

TEST_F(MachinesTest, ASignalToOneThatIsThroughStopsTheOthers) {
  const pid_t through = machine(0, {"env", "RANK"});
  const pid_t at_work = machine(1, {"wait", dir_.path()}, {"--grace_period=1"});
  for (const char* file : {"pids_2", "pids_3"})
    while (!exists(dir_ / file)) usleep(1000);
  while (text("machine0.out").size() < 2 * std::strlen("[rank 0] RANK=0\n")) usleep(1000);
  usleep(50'000);  // until it waits for the other
  kill(through, SIGINT);
  EXPECT_EQ(end_of(0, through).code, 128 + SIGINT);
  EXPECT_EQ(end_of(1, at_work).code, 128 + SIGINT);
  EXPECT_TRUE(nobody_is_left());
}

TEST_F(MachinesTest, WrongOnesAreToldWhy) {
  const pid_t a = machine(0, {"env"}, {"--rdzv_conf=timeout=2"});
  const Result other_run = end_of(1, machine(1, {"env"}, {"--rdzv_conf=run_id=other"}));
  EXPECT_EQ(other_run.code, 77);
  EXPECT_THAT(other_run.err, HasSubstr("expected run 'other', got run 'pinion'"));
  const std::string wrong = dir_ / "wrong";
  write_file_atomic(wrong, std::string(40, 'w'));
  chmod(wrong.c_str(), 0600);
  const Result stranger = end_of(1, machine(1, {"env"}, {"--rdzv_secret_file", wrong}));
  EXPECT_EQ(stranger.code, 77);
  const Result waited = end_of(0, a);
  EXPECT_EQ(waited.code, 81);
  EXPECT_THAT(waited.err, HasSubstr("no launcher of machine 1 came within 2 s"));
}

}  // namespace
}  // namespace pinion
