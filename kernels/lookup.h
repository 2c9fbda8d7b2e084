// SPDX-License-Identifier: Apache-2.0
// The failure of kernels that read by index.
#pragma once

#include <cstdint>

namespace pinion::kernels {

// Throws "who: index must lie in [0, extent), got got". Out of line, because a message built in a
// file of the ISA ladder would emit inline functions with that rung's instructions.
[[noreturn]] void fail_lookup(const char* who, int64_t got, int64_t extent);

}  // namespace pinion::kernels
