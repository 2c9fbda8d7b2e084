// SPDX-License-Identifier: Apache-2.0
// Which rung of the ISA ladder this machine can run.
#pragma once

#include "pinion/kernels/context.h"

namespace pinion::kernels {

// By CPUID feature bits and by what the operating system saves (XCR0); for amx also by the kernel's
// permission, which this asks for. Never by model or brand: hypervisors report those at will.
Isa detect_isa();

}  // namespace pinion::kernels
