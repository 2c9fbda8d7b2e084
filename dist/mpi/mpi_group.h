// SPDX-License-Identifier: Apache-2.0
// Ranks under mpirun: on several hosts, or where shared memory does not do.
#pragma once

#include <memory>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

// Starts MPI and joins as the rank that it gives. libpinion_mpi.so is sought in PINION_MPI_LIBRARY,
// beside the program, in ../lib from there, and where the dynamic loader looks. Once in a process.
// A thread of the group makes all calls of MPI, because nothing moves without calls. Sums are
// taken in MPI's order; 16-bit ones travel as f32. Calls are compared between collectives; a
// message that meets a collective is found by the timeout. Throws Error (config) where there is no
// MPI.
std::shared_ptr<ProcessGroup> make_mpi_group();

// Whether the library of make_mpi_group() can be opened; else the reason in `why`.
bool has_mpi(std::string* why = nullptr);

}  // namespace pinion::dist
