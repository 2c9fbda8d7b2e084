// SPDX-License-Identifier: Apache-2.0
// Ranks that own a GPU each.
#pragma once

#include <memory>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

// The ranks of `host`, a group over the hosts' memory that nobody else uses from then on, over
// NCCL. Work runs on a stream beside the device's own, so that it overlaps with what is computed
// meanwhile; wait() makes the device's stream wait, never the host, but for a barrier, which is one
// of the hosts. A thread of the group follows: it compares what the ranks called over `host` while
// the data moves, watches for errors, for ranks that are gone and for the timeout, and aborts the
// communicator then, which frees the device. So an error comes up in the calls that follow; what
// the device computed from the results until then is worth nothing. Calls under way end before the
// group does, which is aborted instead where an exception ends it.
//
// Sums are taken in NCCL's order, and those of 16 bits may be rounded at every step. Messages of a
// rank go one after the other: where two ranks both send first, that is a desync. Under MPI a rank
// that is gone while the device works is found by NCCL or the timeout only.
//
// Throws Error: config in builds without NCCL's header, device for a missing library or a failure
// of NCCL, and those of ProcessGroup for ranks that do not come.
std::shared_ptr<ProcessGroup> make_nccl_group(const std::shared_ptr<ProcessGroup>& host,
                                              Device device);

// From the first group of this process on, NCCL adds in an order that only the number of ranks and
// the machine decide: as rings do. Variables of NCCL's that are set already stay as they are.
void fix_nccl_order();

}  // namespace pinion::dist
