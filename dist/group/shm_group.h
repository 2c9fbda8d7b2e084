// SPDX-License-Identifier: Apache-2.0
// Ranks that are processes of one host.
#pragma once

#include <memory>

#include "pinion/dist/group/shm_segment.h"
#include "pinion/dist/process_group.h"

namespace pinion::dist {

// Joins as `rank`, and returns when all have. A rank whose process ends is noticed within
// milliseconds by those that wait for it: peer_lost. Throws Error (config) for a rank that is
// taken, and hang when the others do not come within `timeout`.
std::shared_ptr<ProcessGroup> make_shm_group(
    const std::shared_ptr<ShmSegment>& segment, int rank,
    std::chrono::milliseconds timeout = std::chrono::minutes(10));

}  // namespace pinion::dist
