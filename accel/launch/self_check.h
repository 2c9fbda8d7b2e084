// SPDX-License-Identifier: Apache-2.0
// What `pinion test` runs on every rank: whether this installation, on these ranks, adds right and
// trains right.
#pragma once

#include <functional>
#include <string_view>

#include "pinion/dist/process_group.h"

namespace pinion::accel {

// Every rank calls it. `say` hears, on rank 0, of each check that passed. Throws Error (desync)
// that names the operation, what was expected and what came, and the errors of ProcessGroup.
void self_check(dist::ProcessGroup& group, Device device,
                const std::function<void(std::string_view)>& say);

}  // namespace pinion::accel
