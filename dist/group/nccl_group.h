// SPDX-License-Identifier: Apache-2.0
// Ranks that own a GPU each.
#pragma once

#include <memory>

#include "pinion/dist/process_group.h"

namespace pinion::dist {

// The ranks of `host`, a group over the hosts' memory, over NCCL. `host` carries NCCL's identifier
// at first and then the headers of calls, which are compared while the data moves. Work runs on a
// stream beside the device's own, so that it overlaps with what is computed meanwhile; wait() makes
// the device's stream wait, never the host. A thread watches for errors, for calls that differ and
// for the timeout, and aborts the communicator then, which frees the device. Messages are not
// compared. Throws Error: config in builds without NCCL's header, device for a missing library.
std::shared_ptr<ProcessGroup> make_nccl_group(std::shared_ptr<ProcessGroup> host, Device device);

}  // namespace pinion::dist
