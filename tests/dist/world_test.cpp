// SPDX-License-Identifier: Apache-2.0
// Ranks as every launcher states them, and what is wrong with statements that do not fit.
#include "pinion/dist/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "pinion/dist/node_list.h"

namespace pinion::dist {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using Environment = std::map<std::string, std::string>;

World world_in(const Environment& environment) {
  return world_from([&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

std::string error_in(const Environment& environment) {
  try {
    const World world = world_in(environment);
    return "no error: rank " + std::to_string(world.rank) + " by " + world.launcher;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::config);
    return e.what();
  }
}

struct Row {
  const char* about;
  Environment environment;
  const char* launcher;
  int rank, size, local_rank, local_size, node_rank;
  const char* main_host = "";
};

const Row kRows[] = {
    {"nobody", {}, "none", 0, 1, 0, 1, 0},
    {"only where to meet", {{"MASTER_ADDR", "h"}, {"MASTER_PORT", "1"}}, "none", 0, 1, 0, 1, 0},
    {"pinion",
     {{"PINION_RANK", "3"},
      {"PINION_WORLD_SIZE", "4"},
      {"PINION_LOCAL_RANK", "1"},
      {"PINION_LOCAL_WORLD_SIZE", "2"},
      {"PINION_NODE_RANK", "1"},
      {"MASTER_ADDR", "10.0.0.1"}},
     "pinion",
     3,
     4,
     1,
     2,
     1,
     "10.0.0.1"},
    {"torchrun, accelerate",
     {{"RANK", "5"},
      {"WORLD_SIZE", "6"},
      {"LOCAL_RANK", "2"},
      {"LOCAL_WORLD_SIZE", "3"},
      {"GROUP_RANK", "1"},
      {"MASTER_ADDR", "node0"},
      {"MASTER_PORT", "29500"}},
     "torchrun",
     5,
     6,
     2,
     3,
     1,
     "node0"},
    {"by hand, one host", {{"RANK", "1"}, {"WORLD_SIZE", "2"}}, "torchrun", 1, 2, 1, 2, 0},
    {"pinion inside torchrun",
     {{"PINION_RANK", "0"}, {"PINION_WORLD_SIZE", "1"}, {"RANK", "1"}, {"WORLD_SIZE", "2"}},
     "pinion",
     0,
     1,
     0,
     1,
     0},
    {"Open MPI, also through PMIx",
     {{"OMPI_COMM_WORLD_RANK", "3"},
      {"OMPI_COMM_WORLD_SIZE", "4"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
      {"OMPI_COMM_WORLD_NODE_RANK", "1"},
      {"PMIX_RANK", "3"}},
     "openmpi",
     3,
     4,
     1,
     2,
     1},
    {"PMIx with the number of ranks",
     {{"PMIX_RANK", "1"}, {"WORLD_SIZE", "2"}},
     "pmix",
     1,
     2,
     1,
     2,
     0},
    {"Hydra: MPICH, Intel",
     {{"PMI_RANK", "2"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "0"}, {"MPI_LOCALNRANKS", "2"}},
     "hydra",
     2,
     4,
     0,
     2,
     1},
    {"MVAPICH2, which also sets Hydra's",
     {{"MV2_COMM_WORLD_RANK", "1"},
      {"MV2_COMM_WORLD_SIZE", "2"},
      {"MV2_COMM_WORLD_LOCAL_RANK", "1"},
      {"MV2_COMM_WORLD_LOCAL_SIZE", "2"},
      {"PMI_RANK", "1"},
      {"PMI_SIZE", "2"}},
     "mvapich2",
     1,
     2,
     1,
     2,
     0},
    {"srun, nodes of different size",
     {{"SLURM_PROCID", "6"},
      {"SLURM_NTASKS", "7"},
      {"SLURM_STEP_NUM_TASKS", "7"},
      {"SLURM_LOCALID", "0"},
      {"SLURM_TASKS_PER_NODE", "2(x3),1"},
      {"SLURM_NODEID", "3"},
      {"SLURM_STEP_NODELIST", "gpu[07-09],login"}},
     "slurm",
     6,
     7,
     0,
     1,
     3,
     "gpu07"},
    {"the script of sbatch is no rank",
     {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}},
     "none",
     0,
     1,
     0,
     1,
     0},
    {"srun beats a lone WORLD_SIZE",
     {{"WORLD_SIZE", "2"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}},
     "slurm",
     1,
     2,
     1,
     2,
     0},
    {"srun --mpi=pmix",
     {{"PMIX_RANK", "1"},
      {"SLURM_PROCID", "1"},
      {"SLURM_STEP_NUM_TASKS", "2"},
      {"SLURM_STEP_TASKS_PER_NODE", "1(x2)"},
      {"SLURM_NODEID", "1"}},
     "slurm",
     1,
     2,
     0,
     1,
     1},
};

TEST(World, IsWhatTheLauncherSays) {
  for (const Row& row : kRows) {
    SCOPED_TRACE(row.about);
    const World world = world_in(row.environment);
    EXPECT_EQ(world.launcher, row.launcher);
    EXPECT_EQ(world.rank, row.rank);
    EXPECT_EQ(world.size, row.size);
    EXPECT_EQ(world.local_rank, row.local_rank);
    EXPECT_EQ(world.local_size, row.local_size);
    EXPECT_EQ(world.node_rank, row.node_rank);
    EXPECT_EQ(world.main_host, row.main_host);
  }
}

TEST(World, BadValuesNameTheirVariable) {
  const struct {
    Environment environment;
    const char* begins;
  } rows[] = {
      {{{"RANK", "abc"}, {"WORLD_SIZE", "2"}}, "RANK: expected a whole number from 0 to 1, got 'a"},
      {{{"RANK", ""}, {"WORLD_SIZE", "2"}}, "RANK: expected a whole number from 0 to 1, got ''"},
      {{{"RANK", "1 "}, {"WORLD_SIZE", "2"}}, "RANK: expected a whole number"},
      {{{"RANK", "+1"}, {"WORLD_SIZE", "2"}}, "RANK: expected a whole number"},
      {{{"RANK", "0x1"}, {"WORLD_SIZE", "2"}}, "RANK: expected a whole number"},
      {{{"RANK", "2"}, {"WORLD_SIZE", "2"}}, "RANK: expected a whole number from 0 to 1, got '2'"},
      {{{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, "RANK: "},
      {{{"RANK", "0"}, {"WORLD_SIZE", "0"}}, "WORLD_SIZE: expected a whole number from 1"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "99999999999"}}, "WORLD_SIZE: "},
      {{{"RANK", "0\n"}, {"WORLD_SIZE", "2"}},
       "RANK: expected a whole number from 0 to 1, got '0\\n'"},
      {{{"RANK", "0"}}, "WORLD_SIZE: expected beside RANK='0'"},
      {{{"WORLD_SIZE", "2"}}, "RANK: expected beside WORLD_SIZE='2'"},
      {{{"PINION_RANK", "0"}, {"RANK", "0"}, {"WORLD_SIZE", "1"}},
       "PINION_WORLD_SIZE: expected be"},
      {{{"PINION_WORLD_SIZE", "2"}}, "PINION_RANK: expected beside"},
      {{{"PMIX_RANK", "0"}}, "WORLD_SIZE: expected beside PMIX_RANK"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}}, "LOCAL_WORLD_SIZE: expected be"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_WORLD_SIZE", "2"}}, "LOCAL_RANK: expected be"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "-1"}, {"LOCAL_WORLD_SIZE", "2"}},
       "LOCAL_RANK: expected a whole number from 0 to 1, got '-1'"},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "3"}},
       "LOCAL_WORLD_SIZE: expected a whole number from 1 to 2, got '3'"},
      {{{"SLURM_PROCID", "2"}, {"SLURM_STEP_NUM_TASKS", "2"}}, "SLURM_PROCID: "},
      {{{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_TASKS_PER_NODE", "1(y2)"}},
       "SLURM_TASKS_PER_NODE: "},
      {{{"SLURM_PROCID", "1"},
        {"SLURM_STEP_NUM_TASKS", "2"},
        {"SLURM_TASKS_PER_NODE", "1"},
        {"SLURM_NODEID", "1"}},
       "SLURM_TASKS_PER_NODE: expected an entry for node 1"},
      {{{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_STEP_NODELIST", "n[1-"}},
       "SLURM_STEP_NODELIST: expected a ] for every ["},
  };
  for (const auto& row : rows) EXPECT_THAT(error_in(row.environment), StartsWith(row.begins));
}

TEST(NodeList, Expands) {
  const auto hosts = [](const char* list) { return expand_node_list(list, "LIST"); };
  EXPECT_THAT(hosts("one"), ElementsAre("one"));
  EXPECT_THAT(hosts("a,b"), ElementsAre("a", "b"));
  EXPECT_THAT(hosts("n[1-3]"), ElementsAre("n1", "n2", "n3"));
  EXPECT_THAT(hosts("n[08-10,3]"), ElementsAre("n08", "n09", "n10", "n3"));
  EXPECT_THAT(hosts("a[1-2]-ib,b"), ElementsAre("a1-ib", "a2-ib", "b"));
  EXPECT_THAT(hosts("r[1-2]n[3-4]"), ElementsAre("r1n3", "r1n4", "r2n3", "r2n4"));
  EXPECT_THAT(expand_counts("2(x3),1", "LIST"), ElementsAre(2, 2, 2, 1));
}

TEST(NodeList, RefusesWhatItCannotRead) {
  for (const char* list : {"", ",", "a,", "n[", "n]", "n[]", "n[1-]", "n[-1]", "n[2-1]", "n[[1]]",
                           "n[x]", "n[1-99999999]", "n[1-300]m[1-300]", "n[99999999999]"}) {
    try {
      expand_node_list(list, "LIST");
      ADD_FAILURE() << list;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::config);
      EXPECT_THAT(e.what(), StartsWith("LIST: expected "));
    }
  }
  for (const char* list : {"", "x", "2(x)", "2(x3", "2(x70000)", "-1"})
    EXPECT_THROW(expand_counts(list, "LIST"), Error) << list;
}

}  // namespace
}  // namespace pinion::dist
