// SPDX-License-Identifier: Apache-2.0
#include "pinion/kernels/lookup.h"

#include "pinion/kernels/check.h"

namespace pinion::kernels {

void fail_lookup(const char* who, int64_t got, int64_t extent) {
  fail(ErrorKind::internal, {who, ": index must lie in [0, ", extent, "), got ", got});
}

}  // namespace pinion::kernels
