// SPDX-License-Identifier: Apache-2.0
// The benchmark: gates first, then every scheme of every cell in turns, and the figures of it.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pinion/bench/dp_vs_ddp/algebra.h"
#include "pinion/bench/dp_vs_ddp/gates.h"
#include "pinion/bench/dp_vs_ddp/statistics.h"

namespace pinion::bench {

constexpr double kMostForeign = 0.05;  // of the machine's CPU time; more makes a row dirty

struct MatrixOptions {
  std::vector<std::string> cells{"toy-mlp"};
  std::vector<std::string> schemes{};  // none: all. one-device and dp-pytorch-like always run
  std::vector<int> ranks{2};           // devices
  std::vector<int> modelled{4, 8};     // devices of rows by the model; those measured are checked
  int repetitions = 5;
  double minutes = 10;  // fewer repetitions, down to 2, when they would take longer; 0: no limit
  Timing timing;
  bool quick = false;  // for the record: fewer repetitions and steps than figures need
};

struct Row {
  std::string cell;
  Scheme scheme = Scheme::one;
  int devices = 1;  // of the configuration it is compared in
  Estimate samples_per_second{};
  Phases phases{};                 // seconds of a step of the slowest process, median
  double cpu_per_sample = 0;       // seconds, all processes
  double device0 = 0, others = 0;  // bytes of tensors but the batches: device 0, one other
  double tags[kMemoryTags] = {};   // bytes at their most, by tag, of the first process
  double pss = 0, high_water = 0;  // bytes: of all processes; of the largest one
  double state_by_algebra = 0;     // bytes
  Traffic traffic{};
  double foreign = 0;  // median of the repetitions
  bool dirty = false, oversubscribed = false;
};

struct ModelRow {
  std::string cell;
  Scheme scheme = Scheme::one;
  int devices = 1;
  double samples_per_second = 0;
  double measured = 0;  // where there is a row to compare with, else 0
};

struct Report {
  MatrixOptions options;
  std::vector<std::pair<std::string, std::string>> machine;
  int repetitions = 0;  // that were made
  std::vector<Gate> gates{};
  std::vector<Row> rows{};
  std::vector<ModelRow> models{};
  std::vector<std::pair<std::string, ModelConstants>> constants{};  // by cell
};

// Throws Error (usage) for options that make no sense, Error (desync) when a gate fails, and what
// the processes throw. `say` is told what begins, and how long the rest will take.
Report run_matrix(const MatrixOptions& options, const std::function<void(const std::string&)>& say);

// The row of a scheme, or null.
const Row* find_row(const Report& report, const std::string& cell, Scheme scheme, int devices);

}  // namespace pinion::bench
