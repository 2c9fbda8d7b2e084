// SPDX-License-Identifier: Apache-2.0
// Whether ranks make the same call, for backends whose library does not ask.
#pragma once

#include "pinion/dist/group/flight_record.h"

namespace pinion::dist {

// Every rank tells the others over `host` what it is about to do: all of them, or the partner of a
// message. Returns when all have come and agree; `host` finds who does not come. Throws Error:
// desync, with the same text on every rank that is concerned, and what `host` throws.
void compare_calls(ProcessGroup& host, const CallHeader& mine);

}  // namespace pinion::dist
