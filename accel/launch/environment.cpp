// SPDX-License-Identifier: Apache-2.0
// What ranks see of the launcher's environment, and what they are told beside it.
#include "pinion/accel/launch/environment.h"

#include <algorithm>
#include <cctype>

#include "pinion/dist/store/socket.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

// A name, or the beginning of names with a * behind it. Beside Pinion's own: where programs and
// files are found, how people and terminals want text, the numeric libraries, the job.
constexpr std::string_view kPassed[] = {
    "PINION_*",     "ACCELERATE_*",    "FSDP_*",       "OMP_*",        "KMP_*",
    "GOMP_*",       "MKL_*",           "DNNL_*",       "ONEDNN_*",     "NCCL_*",
    "CUDA_*",       "CUBLAS_*",        "CUDNN_*",      "NVIDIA_*",     "SLURM_*",
    "PATH",         "LD_LIBRARY_PATH", "HOME",         "USER",         "LOGNAME",
    "PWD",          "TMPDIR",          "TZ",           "LANG",         "LC_*",
    "TERM",         "COLUMNS",         "LINES",        "NO_COLOR",     "XDG_*",
    "HF_*",         "MALLOC_*",        "ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS",
    "UBSAN_OPTIONS"};

// These run code of somebody's choice inside every program that is started.
constexpr std::string_view kLoaders[] = {"LD_PRELOAD", "LD_AUDIT"};

// Set by the launcher alone. An outer launcher's never reach a rank.
constexpr std::string_view kContract[] = {"PINION_RANK",
                                          "PINION_WORLD_SIZE",
                                          "PINION_LOCAL_RANK",
                                          "PINION_LOCAL_WORLD_SIZE",
                                          "PINION_NODE_RANK",
                                          "PINION_STORE",
                                          "PINION_STORE_SECRET_FD",
                                          "PINION_RUN_ID",
                                          "PINION_EPOCH",
                                          "PINION_SHM_FD",
                                          "PINION_ERROR_FILE",
                                          "RANK",
                                          "WORLD_SIZE",
                                          "LOCAL_RANK",
                                          "LOCAL_WORLD_SIZE",
                                          "GROUP_RANK",
                                          "GROUP_WORLD_SIZE",
                                          "ROLE_NAME",
                                          "ROLE_RANK",
                                          "ROLE_WORLD_SIZE",
                                          "MASTER_ADDR",
                                          "MASTER_PORT",
                                          "TORCHELASTIC_RUN_ID",
                                          "TORCHELASTIC_RESTART_COUNT",
                                          "TORCHELASTIC_MAX_RESTARTS"};

template <class Patterns>
bool any_matches(const Patterns& patterns, std::string_view name) {
  return std::any_of(std::begin(patterns), std::end(patterns),
                     [&](std::string_view p) { return matches(p, name); });
}

bool is_name(std::string_view name) {
  const auto good = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  return !name.empty() && !std::isdigit(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), good);
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
  return pattern.ends_with('*') ? name.starts_with(pattern.substr(0, pattern.size() - 1))
                                : name == pattern;
}

Variables inherited_environment(const Variables& own, const std::vector<std::string>& allow,
                                std::vector<std::string>& notes) {
  Variables out;
  for (const auto& [name, value] : own) {
    if (any_matches(kContract, name)) continue;
    const bool allowed = any_matches(allow, name);
    if (any_matches(kLoaders, name) && !allowed)
      notes.push_back(cat({name, " is not passed on to ranks (--allow_env ", name, " does)"}));
    else if (allowed || any_matches(kPassed, name))
      out[name] = value;
  }
  return out;
}

void add_variables(const std::vector<std::string>& entries, const std::vector<std::string>& allow,
                   Variables& environment) {
  for (const std::string& entry : entries) {
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    PINION_REQUIRE(usage, equals != entry.npos && is_name(name), "--env: expected NAME=value, got ",
                   quoted(entry));
    PINION_REQUIRE(usage, !any_matches(kContract, name), "--env: ", name,
                   " is set by the launcher itself, for each rank");
    PINION_REQUIRE(usage, !any_matches(kLoaders, name) || any_matches(allow, name), "--env: ", name,
                   " loads code into every program; add --allow_env ", name, " if you mean it");
    environment[name] = entry.substr(equals + 1);
  }
}

std::string log_folder(const LaunchPlan& plan, const LaunchState& state, int rank) {
  return cat({plan.log_dir, "/", plan.run_id, "/attempt_", state.epoch, "/", rank});
}

std::string error_file(const LaunchPlan& plan, const LaunchState& state, int rank) {
  return plan.log_dir.empty() ? cat({state.error_folder, "/rank_", rank, ".json"})
                              : log_folder(plan, state, rank) + "/error.json";
}

Variables rank_environment(const LaunchPlan& plan, const LaunchState& state, int local_rank) {
  Variables out = plan.environment;
  const int rank = plan.first_rank + local_rank;
  const auto set = [&](std::initializer_list<const char*> names, const std::string& value) {
    for (const char* name : names) out[name] = value;
  };
  set({"PINION_RANK", "RANK", "ROLE_RANK"}, std::to_string(rank));
  set({"PINION_WORLD_SIZE", "WORLD_SIZE", "ROLE_WORLD_SIZE"}, std::to_string(plan.ranks));
  set({"PINION_LOCAL_RANK", "LOCAL_RANK"}, std::to_string(local_rank));
  set({"PINION_LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE"}, std::to_string(plan.local_ranks));
  set({"PINION_NODE_RANK", "GROUP_RANK"}, std::to_string(plan.machine));
  set({"GROUP_WORLD_SIZE"}, std::to_string(plan.machines));
  set({"ROLE_NAME"}, plan.role);
  set({"PINION_RUN_ID", "TORCHELASTIC_RUN_ID"}, plan.run_id);
  set({"PINION_EPOCH", "TORCHELASTIC_RESTART_COUNT"}, std::to_string(state.epoch));
  set({"TORCHELASTIC_MAX_RESTARTS"}, std::to_string(plan.max_restarts));
  set({"MASTER_ADDR"}, plan.host);
  set({"MASTER_PORT"},
      std::to_string(state.store.empty() ? plan.port : dist::port_of(state.store)));
  if (!state.store.empty()) set({"PINION_STORE"}, state.store);
  if (state.secret_fd >= 0) set({"PINION_STORE_SECRET_FD"}, std::to_string(state.secret_fd));
  if (state.shm_fd >= 0) set({"PINION_SHM_FD"}, std::to_string(state.shm_fd));
  if (!state.error_folder.empty()) set({"PINION_ERROR_FILE"}, error_file(plan, state, rank));
  return out;
}

std::string shown_variable(std::string_view name, std::string_view value) {
  bool secret = false;
  for (const char* word : {"SECRET", "TOKEN", "KEY", "PASSWORD"})
    secret |= name.find(word) != name.npos;
  if (name.ends_with("_FD")) secret = false;  // the number of a descriptor
  return cat({name, "=", secret ? "***" : escaped(value)});
}

}  // namespace pinion::accel
