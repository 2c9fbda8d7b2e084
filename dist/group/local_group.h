// SPDX-License-Identifier: Apache-2.0
// Ranks that are threads of one process: for DataParallel and for tests.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

// One group for each of `size` ranks; each is used by one thread at a time.
std::vector<std::shared_ptr<ProcessGroup>> make_local_groups(int size);

// Runs `body` on `size` threads, each with its group and a pool of one thread, and returns when all
// have. An exception of one rank aborts the group; the first one that is not peer_lost is thrown.
void run_local(int size, const std::function<void(ProcessGroup&)>& body);

}  // namespace pinion::dist
