// SPDX-License-Identifier: Apache-2.0
// The environment of ranks: of the launcher's own only what is on a list, then what was asked for
// by name, then what tells a rank who it is.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pinion/accel/launch/options.h"

namespace pinion::accel {

// Whether `pattern` means `name`: it is the same, or its beginning with a * behind.
bool matches(std::string_view pattern, std::string_view name);

// What of `own` is passed on. Adds a line to `notes` for a variable that loads code into programs
// (LD_PRELOAD and its kin) and is held back.
Variables inherited_environment(const Variables& own, const std::vector<std::string>& allow,
                                std::vector<std::string>& notes);

// Applies "NAME=value" entries in turn. Throws Error (usage): no =, a name that is none, a name of
// the contract below, or one that loads code and is not in `allow`.
void add_variables(const std::vector<std::string>& entries, const std::vector<std::string>& allow,
                   Variables& environment);

// What changes from start to start.
struct LaunchState {
  int epoch = 0;  // counts restarts
  std::string store;
  int secret_fd = -1, shm_fd = -1;  // inherited; -1: there is none
  std::string error_folder;         // where ranks leave rank_N.json, unless there is a log_dir
};

// What is kept of a rank in --log_dir: LOG_DIR/RUN/attempt_<epoch>/<rank>.
std::string log_folder(const LaunchPlan& plan, const LaunchState& state, int rank);
// Where the rank leaves the record of its end.
std::string error_file(const LaunchPlan& plan, const LaunchState& state, int rank);

// The whole environment of one rank: Pinion's names, torchrun's, and Accelerate's.
Variables rank_environment(const LaunchPlan& plan, const LaunchState& state, int local_rank);

// "NAME=value" for people: control bytes escaped, values of names that hold SECRET, TOKEN, KEY or
// PASSWORD masked.
std::string shown_variable(std::string_view name, std::string_view value);

}  // namespace pinion::accel
