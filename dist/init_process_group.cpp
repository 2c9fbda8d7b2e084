// SPDX-License-Identifier: Apache-2.0
// Chooses how the ranks of this run talk to each other, and joins them.
#include <cstdlib>
#include <string_view>

#include "pinion/dist/group/local_group.h"
#include "pinion/dist/group/nccl_group.h"
#include "pinion/dist/group/shm_group.h"
#include "pinion/dist/group/shm_rendezvous.h"
#include "pinion/dist/mpi/mpi_group.h"
#include "pinion/dist/world.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

using std::chrono::milliseconds;

const char* variable(const char* name) { return std::getenv(name); }

bool under_mpi(const World& world) {
  const std::string_view by = world.launcher;
  return by == "openmpi" || by == "pmix" || by == "hydra" || by == "mvapich2";
}

// In the segment that the launcher made, or else in one that the ranks of this host agree on.
std::shared_ptr<ProcessGroup> join_shm(const World& world, milliseconds timeout) {
  PINION_REQUIRE(config, world.local_size == world.size,
                 "shm: expected all ranks on one host, got ", world.local_size, " of ", world.size,
                 " here; CPU ranks on several hosts meet under mpirun");
  auto segment = ShmSegment::from_environment();
  if (!segment) segment = meet_on_host(rendezvous_name(variable), world.rank, world.size, timeout);
  PINION_REQUIRE(config, segment->ranks() == world.size, "shm: expected a segment for ", world.size,
                 " ranks, got one for ", segment->ranks());
  return make_shm_group(std::move(segment), world.rank, timeout);
}

std::shared_ptr<ProcessGroup> join_mpi(const World& world) {
  auto group = make_mpi_group();
  PINION_REQUIRE(config, group->rank() == world.rank && group->size() == world.size,
                 "mpi: expected rank ", world.rank, " of ", world.size, " as ", world.launcher,
                 " says, got rank ", group->rank(), " of ", group->size(), " from MPI");
  return group;
}

// All ranks see the same environment, but for their ranks, and so choose the same.
Backend chosen(const World& world, Device device) {
  if (device.kind == Device::Kind::cuda) return Backend::nccl;
  if (!under_mpi(world)) return Backend::shm;
  return world.local_size == world.size ? Backend::shm : Backend::mpi;
}

// The host's memory is how ranks with GPUs exchange the little that NCCL needs to begin.
std::shared_ptr<ProcessGroup> join_nccl(const World& world, Device device, milliseconds timeout) {
  const auto hosts = world.local_size == world.size ? join_shm(world, timeout) : join_mpi(world);
  hosts->set_timeout(timeout);
  return make_nccl_group(hosts, device);
}

std::shared_ptr<ProcessGroup> join(const World& world, Device device, Backend backend,
                                   milliseconds timeout) {
  switch (backend == Backend::automatic ? chosen(world, device) : backend) {
    case Backend::mpi: return join_mpi(world);
    case Backend::nccl: return join_nccl(world, device, timeout);
    default: return join_shm(world, timeout);
  }
}

}  // namespace

std::shared_ptr<ProcessGroup> init_process_group(const World& world, Device device, Backend backend,
                                                 milliseconds timeout) {
  auto group = world.size == 1 ? make_local_groups(1)[0] : join(world, device, backend, timeout);
  group->set_timeout(timeout);
  return group;
}

}  // namespace pinion::dist
