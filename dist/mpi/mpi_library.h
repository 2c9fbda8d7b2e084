// SPDX-License-Identifier: Apache-2.0
// libpinion_mpi.so, opened on first use.
#pragma once

#include "pinion/dist/mpi/mpi_shim.h"

namespace pinion::dist {

// Throws Error (config) that names every place and what was wrong there.
const PinionMpi& mpi_library();

}  // namespace pinion::dist
