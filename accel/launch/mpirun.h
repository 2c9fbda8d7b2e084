// SPDX-License-Identifier: Apache-2.0
// Ranks on several hosts through MPI's own launcher: the command line for each of its flavours.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pinion/accel/launch/options.h"

namespace pinion::accel {

enum class MpiFlavour : uint8_t { open_mpi, mpich, intel };

// By what `mpirun --version` prints. Throws Error (config) for another.
MpiFlavour mpi_flavour(std::string_view version);
// Runs `mpirun --version`. Throws Error (config) when there is no mpirun.
MpiFlavour installed_mpi();

// mpirun with its flags, the program and its arguments: plan.ranks ranks, as many on each host.
std::vector<std::string> mpirun_command(const LaunchPlan& plan, const std::string& hostfile,
                                        MpiFlavour flavour);

// Becomes mpirun, in this process's environment and the plan's. Throws Error (config) if it cannot.
[[noreturn]] void become(const std::vector<std::string>& command, const LaunchPlan& plan);

}  // namespace pinion::accel
