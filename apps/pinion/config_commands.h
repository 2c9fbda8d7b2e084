// SPDX-License-Identifier: Apache-2.0
// The commands of `pinion` beside launch: each takes the command line from its own name on, and
// returns the exit code or throws Error.
#pragma once

namespace pinion::apps {

int config_main(int argc, char** argv);           // config, config default, config update
int env_main(int argc, char** argv);              // env
int estimate_memory_main(int argc, char** argv);  // estimate-memory
int merge_weights_main(int argc, char** argv);    // merge-weights
int test_main(int argc, char** argv);             // test

}  // namespace pinion::apps
