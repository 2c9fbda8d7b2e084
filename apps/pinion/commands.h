// SPDX-License-Identifier: Apache-2.0
// The commands of `pinion`: each takes the command line from its own name on, and returns the exit
// code or throws Error.
#pragma once

namespace pinion::apps {

int launch_main(int argc, char** argv);

}  // namespace pinion::apps
