// SPDX-License-Identifier: Apache-2.0
// Finds the rank of this process in what launchers leave in the environment.
#include "pinion/dist/world.h"

#include <charconv>
#include <cstdlib>
#include <optional>

#include "pinion/dist/node_list.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

using Lookup = std::function<const char*(const char*)>;

// The variables of one launcher; null for what it does not say.
struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
  const char* node_rank;
  const char* main_host;
};

// In the order in which they are asked: who stands closest to the process comes first. PMIx itself
// does not say how many ranks there are; mpirun -x WORLD_SIZE=… may.
constexpr Names kLaunchers[] = {
    {"pinion", "PINION_RANK", "PINION_WORLD_SIZE", "PINION_LOCAL_RANK", "PINION_LOCAL_WORLD_SIZE",
     "PINION_NODE_RANK", "MASTER_ADDR"},
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK",
     "MASTER_ADDR"},
    {"openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", nullptr, nullptr},
    {"pmix", "PMIX_RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", nullptr, nullptr},
    {"mvapich2", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK",
     "MV2_COMM_WORLD_LOCAL_SIZE", nullptr, nullptr},
    {"hydra", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", nullptr, nullptr},
};

constexpr int kMaxRanks = 1 << 20;

// The value of a variable as a number in [least, most]; nothing where it is not set.
std::optional<int> number(const Lookup& get, const char* name, int least, int most) {
  const char* text = name ? get(name) : nullptr;
  if (!text) return std::nullopt;
  int value = 0;
  const std::string_view digits(text);
  const char* const end = digits.data() + digits.size();
  const auto [at, error] = std::from_chars(digits.data(), end, value);
  PINION_REQUIRE(config, error == std::errc() && at == end && value >= least && value <= most, name,
                 ": expected a whole number from ", least, " to ", most, ", got ", quoted(text));
  return value;
}

// Says that `missing` should be set beside `present`.
[[noreturn]] void half_set(const Lookup& get, const char* missing, const char* present) {
  fail(ErrorKind::config, {missing, ": expected beside ", present, "=", quoted(get(present)),
                           ", which is set, got nothing"});
}

// Where the launcher does not say, the ranks are taken to fill one host after the other.
void find_place_on_host(const Lookup& get, const Names& names, World& world) {
  const auto local_size = number(get, names.local_size, 1, world.size);
  const auto local_rank = number(get, names.local_rank, 0, local_size.value_or(world.size) - 1);
  if (local_rank.has_value() != local_size.has_value())
    half_set(get, local_rank ? names.local_size : names.local_rank,
             local_rank ? names.local_rank : names.local_size);
  world.local_size = local_size.value_or(world.size);
  world.local_rank = local_rank.value_or(world.rank);
  world.node_rank =
      number(get, names.node_rank, 0, world.size - 1).value_or(world.rank / world.local_size);
}

std::optional<World> complete_set(const Lookup& get, const Names& names) {
  if (!get(names.rank) || !get(names.size)) return std::nullopt;
  World world;
  world.launcher = names.launcher;
  world.size = *number(get, names.size, 1, kMaxRanks);
  world.rank = *number(get, names.rank, 0, world.size - 1);
  find_place_on_host(get, names, world);
  const char* host = names.main_host ? get(names.main_host) : nullptr;
  if (host) world.main_host = host;
  return world;
}

// srun starts steps. The script of sbatch has rank 0 of all tasks too, but is no step: there, only
// variables of the job are set.
std::optional<World> slurm(const Lookup& get) {
  if (!get("SLURM_PROCID") || !get("SLURM_STEP_NUM_TASKS")) return std::nullopt;
  World world;
  world.launcher = "slurm";
  world.size = *number(get, "SLURM_STEP_NUM_TASKS", 1, kMaxRanks);
  world.rank = *number(get, "SLURM_PROCID", 0, world.size - 1);
  world.node_rank = number(get, "SLURM_NODEID", 0, world.size - 1).value_or(0);
  const char* const per_node =
      get("SLURM_STEP_TASKS_PER_NODE") ? "SLURM_STEP_TASKS_PER_NODE" : "SLURM_TASKS_PER_NODE";
  world.local_size = world.size;
  if (const char* counts = get(per_node)) {
    const std::vector<int> tasks = expand_counts(counts, per_node);
    PINION_REQUIRE(config, static_cast<size_t>(world.node_rank) < tasks.size(), per_node,
                   ": expected an entry for node ", world.node_rank, ", got ", quoted(counts));
    world.local_size = tasks[static_cast<size_t>(world.node_rank)];
    PINION_REQUIRE(config, world.local_size >= 1 && world.local_size <= world.size, per_node,
                   ": expected 1 to ", world.size, " tasks on a node, got ", quoted(counts));
  }
  world.local_rank =
      number(get, "SLURM_LOCALID", 0, world.local_size - 1).value_or(world.rank % world.local_size);
  const char* const nodes =
      get("SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";
  if (const char* list = get(nodes)) world.main_host = expand_node_list(list, nodes).front();
  return world;
}

}  // namespace

World world_from(const Lookup& get) {
  const Names* half = nullptr;
  for (const Names& names : kLaunchers) {
    if (const auto world = complete_set(get, names)) return *world;
    // Pinion's own variables mean a start by `pinion launch`, whatever else is around.
    const bool begun = get(names.rank) || get(names.size);
    if (begun && &names == &kLaunchers[0])
      half_set(get, get(names.rank) ? names.size : names.rank,
               get(names.rank) ? names.rank : names.size);
    if (begun && !half) half = &names;
  }
  if (const auto world = slurm(get)) return *world;
  if (half)
    half_set(get, get(half->rank) ? half->size : half->rank,
             get(half->rank) ? half->rank : half->size);
  return {};
}

World world_from_environment() {
  return world_from([](const char* name) { return std::getenv(name); });
}

}  // namespace pinion::dist
