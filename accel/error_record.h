// SPDX-License-Identifier: Apache-2.0
// The record of the error that a program ended with, for the launcher that started it.
#pragma once

#include <string_view>

#include "pinion/kernels/check.h"

namespace pinion::accel {

// "config", "out_of_memory", …: the name of the kind in kernels/check.h.
const char* name_of(ErrorKind kind);

// Writes {"schema":1,"t_mono_ns":…,"t_wall_ns":…,"host":…,"pid":…,"rank":…,"code":…,"class":…,
// "message":…} to the file that PINION_ERROR_FILE names, whole or not at all. Does nothing when
// there is no such variable, and nothing about a file that cannot be written.
void record_error(ErrorKind kind, std::string_view message) noexcept;

}  // namespace pinion::accel
