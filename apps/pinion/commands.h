// SPDX-License-Identifier: Apache-2.0
// The commands of `pinion`: each takes the command line from its own name on, and returns the exit
// code or throws Error.
#pragma once

namespace pinion::apps {

int launch_main(int argc, char** argv);
int config_main(int argc, char** argv);  // config, config default, config update
int env_main(int argc, char** argv);
int test_main(int argc, char** argv);
int estimate_memory_main(int argc, char** argv);
int merge_weights_main(int argc, char** argv);

}  // namespace pinion::apps
