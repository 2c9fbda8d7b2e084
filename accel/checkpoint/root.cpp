// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/checkpoint/root.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "pinion/accel/checkpoint/reader.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr int64_t kMaxLock = 64;  // bytes: the number of a process

std::string holder(const std::string& path) {
  try {
    std::string pid = read_file(path, kMaxLock);
    while (!pid.empty() && pid.back() == '\n') pid.pop_back();
    return pid.empty() ? "unknown" : escaped(pid);
  } catch (const Error&) {
    return "unknown";
  }
}

// Makes the directory with its parents, and their names durable.
void make_root(const std::string& root) {
  std::vector<std::string> missing;
  for (std::string path = root; !exists(path); path = parent_dir(path)) missing.push_back(path);
  make_dirs(root);
  for (const std::string& path : missing) sync_dir(parent_dir(path));
}

File take_lock(const std::string& root) {
  PINION_REQUIRE(config, !root.empty(), "checkpoint: expected a directory, got an empty name");
  make_root(root);
  const std::string path = root + "/.lock";
  File file(path, OpenMode::append);
  PINION_REQUIRE(checkpoint, file.try_lock(), "checkpoint: directory ", pinion::quoted(root),
                 " is in use by process ", holder(path));
  file.truncate(0);
  file.write(cat({static_cast<long>(getpid()), "\n"}));
  return file;
}

}  // namespace

std::string step_directory(const std::string& root, int64_t step) {
  return cat({root, "/", kPrefix, step});
}

int64_t step_of_name(const std::string& name) {
  if (!name.starts_with(kPrefix)) return -1;
  const char* const begin = name.data() + kPrefix.size();
  const char* const end = name.data() + name.size();
  int64_t step = -1;
  const auto [at, error] = std::from_chars(begin, end, step);
  const bool plain = error == std::errc() && at == end && step >= 0 &&
                     name == cat({kPrefix, step});  // no sign, no leading zeros
  return plain ? step : -1;
}

std::vector<int64_t> checkpoint_steps(const std::string& root) {
  std::vector<int64_t> steps;
  if (!exists(root)) return steps;
  for (const std::string& name : list_dir(root))
    if (const int64_t step = step_of_name(name); step >= 0) steps.push_back(step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void remove_tree(const std::string& directory) {
  if (!exists(directory)) return;
  for (const std::string& name : list_dir(directory)) remove_file(cat({directory, "/", name}));
  remove_dir(directory);
}

RootLock::RootLock(const std::string& root) : file_(take_lock(root)) {}

void clean_root(const std::string& root) {
  for (const std::string& name : list_dir(root))
    if (name.starts_with(".tmp-") || name.starts_with(".trash-"))
      remove_tree(cat({root, "/", name}));
}

const Rotation::Known& Rotation::known(int64_t step) {
  const auto at = known_.find(step);
  if (at != known_.end()) return at->second;
  Known found{true, false};
  try {
    const CheckpointReader reader(step_directory(root_, step));
    found.best = reader.manifest().best;
    reader.verify();
  } catch (const Error&) {  // the reader of it, if there is one, will say what is wrong
    found.good = false;
  }
  return known_.insert({step, found}).first->second;
}

void Rotation::run(int64_t step, bool best) {
  known_[step] = {true, best};
  clean_root(root_);  // what earlier calls could not remove
  const std::vector<int64_t> steps = checkpoint_steps(root_);
  if (!steps.empty() && steps[0] > step && !warned_) {
    warned_ = true;
    log_warn({"checkpoint: ", pinion::quoted(step_directory(root_, steps[0])),
              " is newer than step ", step,
              ", which was just saved: it stays, and a run that resumes will choose it"});
  }
  int64_t kept = 0;
  bool best_kept = false;
  for (const int64_t s : steps) {
    if (s > step) continue;
    const Known& k = known(s);
    const bool pinned = k.good && k.best && !best_kept;
    best_kept |= pinned;
    const bool newest = kept < keep_last_;  // a damaged one stays until enough good ones came
    kept += k.good;
    if (newest || pinned || (keep_every_ > 0 && s % keep_every_ == 0)) continue;
    discard(step_directory(root_, s), s);
    known_.erase(s);
  }
}

void Rotation::discard(const std::string& directory, int64_t step) {
  const std::string trash = cat({root_, "/.trash-", step, "-", run_});
  rename_file(directory, trash);
  sync_dir(root_);
  remove_tree(trash);
}

}  // namespace pinion::accel
