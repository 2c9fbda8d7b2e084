// SPDX-License-Identifier: Apache-2.0
// The command line of `pinion launch`: Accelerate's flags under their names, and Pinion's own.
#pragma once

#include <string>
#include <vector>

#include "pinion/accel/config/config.h"
#include "pinion/accel/launch/options.h"

namespace pinion::apps {

struct LaunchCommand {
  accel::Config config;          // what the flags, the file and the environment say
  accel::LaunchOptions options;  // what is no part of a configuration
  std::string config_file;       // empty: the default file, if there is one
  bool help = false, dry_run = false, print_config = false;
};

// Reads flags up to the program; everything from there on belongs to the program. Flags may be
// spelt with - or _. Throws Error (usage): a flag that is unknown, lacks its value or has one it
// cannot have, and those of Accelerate that mean nothing for a compiled program, with the reason.
LaunchCommand parse_launch(int argc, char** argv);

std::string launch_help();

}  // namespace pinion::apps
