// SPDX-License-Identifier: Apache-2.0
// The directory that holds a run's checkpoints: who may write in it, what lies there, and what goes
// when new ones come. Used by rank 0, but for the lists.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pinion/runtime/fs.h"

namespace pinion::accel {

std::string step_directory(const std::string& root, int64_t step);  // ROOT/step-<N>
// The step of a name "step-<N>" as step_directory() spells it; -1 for every other name.
int64_t step_of_name(const std::string& name);
std::vector<int64_t> checkpoint_steps(const std::string& root);  // as in checkpoint.h

// A directory of files and all in it; nothing when it is not there.
void remove_tree(const std::string& directory);

// The right to write in ROOT, for one process at a time and while the object lives: a lock on the
// file ROOT/.lock. Makes the directory when it is not there.
class RootLock {
 public:
  explicit RootLock(const std::string& root);  // throws Error (checkpoint) that names the holder

 private:
  File file_;
};

// Removes what was left half written or half removed. The caller holds the lock and is not writing.
void clean_root(const std::string& root);

// Decides which checkpoints stay, and removes the others.
class Rotation {
 public:
  Rotation(std::string root, std::string run, int64_t keep_last, int64_t keep_every)
      : root_(std::move(root)),
        run_(std::move(run)),
        keep_last_(keep_last),
        keep_every_(keep_every) {}

  // After `step` was published: keeps the newest keep_last that are known to be good, the pinned
  // one, and multiples of keep_every; removes the other ones below `step`. Newer ones are left
  // alone, with a warning: they belong to another course of this run.
  void run(int64_t step, bool best);

  // Moves a directory out of sight, durably, then removes it.
  void discard(const std::string& directory, int64_t step);

 private:
  struct Known {
    bool good, best;
  };
  const Known& known(int64_t step);  // verifies a checkpoint that an earlier run left, once

  std::string root_, run_;
  int64_t keep_last_, keep_every_;
  std::map<int64_t, Known> known_;
  bool warned_ = false;
};

}  // namespace pinion::accel
