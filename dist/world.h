// SPDX-License-Identifier: Apache-2.0
// World: which rank this process is, of how many, and who said so. Found in the environment of
// `pinion launch`, torchrun, `accelerate launch`, mpirun (Open MPI, MPICH, Intel, MVAPICH) or srun;
// a plain start is a world of one.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

struct World {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // among the ranks of this host
  int node_rank = 0;
  std::string launcher = "none";  // "pinion", "torchrun", "openmpi", "pmix", "hydra", "mvapich2",
                                  // "slurm" or "none"
  std::string main_host;          // the host of rank 0, where the launcher says so
};

// The first launcher of the list above that left a complete set of variables, PINION_RANK and
// PINION_WORLD_SIZE say. Throws Error (config) that names the variable: one that is not a number in
// its range, or one that is missing beside those that are set when no set is complete.
World world_from_environment();
// The same, asking `get` for variables; it returns null for what is not set.
World world_from(const std::function<const char*(const char*)>& get);

// How long a rank waits for others unless it is told.
constexpr std::chrono::milliseconds kTimeout{600'000};

enum class Backend : uint8_t { automatic, shm, mpi, nccl };

// Joins the other ranks of `world`. A world of one needs nobody. Throws Error (config) when the
// environment does not say where to meet, and the errors of ProcessGroup when the others do not
// come. `timeout`: how long to wait for them, now and in every operation.
std::shared_ptr<ProcessGroup> init_process_group(const World& world, Device device,
                                                 Backend backend = Backend::automatic,
                                                 std::chrono::milliseconds timeout = kTimeout);

}  // namespace pinion::dist
