// SPDX-License-Identifier: Apache-2.0
// How ranks of one host come to a shared segment when no launcher of ours gave them one: rank 0
// makes it and hands its descriptor to the others over a local socket that has no file.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "pinion/dist/group/shm_segment.h"

namespace pinion::dist {

// What names this run on this host: the variables in which launchers keep a job, a step, an address
// and a port. Throws Error (config) when none is set.
std::string rendezvous_name(const std::function<const char*(const char*)>& get);

// Every rank calls it, and returns with the segment. Only processes of the same user are served.
// Throws Error: config when another run uses the name or the ranks do not agree about their number,
// hang when not all come within `timeout`, peer_lost when rank 0 ends on the way.
std::shared_ptr<ShmSegment> meet_on_host(const std::string& name, int rank, int ranks,
                                         std::chrono::milliseconds timeout);

}  // namespace pinion::dist
