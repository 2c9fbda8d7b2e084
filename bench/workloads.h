// SPDX-License-Identifier: Apache-2.0
// The workloads that are timed: one list for Google Benchmark and for the comparison with PyTorch
// (bench/peers/compare.py), which knows the same names.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pinion::bench {

struct Workload {
  std::string name;  // "softmax/1MiB"
  double bytes;      // moved at least by one run (its floor), 0 where flops are what counts
  double flops;      // of one run
  // Makes the operands and returns the function to time; memory is freed with it.
  std::function<std::function<void()>()> make;
};

const std::vector<Workload>& workloads();
void add_report_steps(std::vector<Workload>& list);  // those of bench/report_steps.cpp

}  // namespace pinion::bench
