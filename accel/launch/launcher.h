// SPDX-License-Identifier: Apache-2.0
// The launcher: starts the ranks of a plan, shows what they print, forwards signals, and when one
// fails stops the others, names it in one line and ends with its code. docs/design.md, "Launcher".
#pragma once

#include <string>

#include "pinion/accel/launch/options.h"

namespace pinion::accel {

// Runs the plan to its end and returns the exit code. One at a time in a process: it takes the
// process's signals, and all of its children are ended with the ranks.
int launch(const LaunchPlan& plan);

// argv and environment of every rank of this machine, for people; starts nothing.
std::string dry_run(const LaunchPlan& plan);

}  // namespace pinion::accel
