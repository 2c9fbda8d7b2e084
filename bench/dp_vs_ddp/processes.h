// SPDX-License-Identifier: Apache-2.0
// Runs one configuration in fresh processes, each device on a core of its own, and reports what
// they measured. The calling process must have no threads of its own yet.
#pragma once

#include <functional>
#include <vector>

#include "pinion/bench/dp_vs_ddp/machine.h"
#include "pinion/bench/dp_vs_ddp/trainer.h"
#include "pinion/runtime/allocator.h"

namespace pinion::bench {

// Calls body(0) … body(count - 1), each in a process of its own, and returns the CPU seconds that
// they used. What they write into shared memory is there afterwards. Throws the first error of a
// body that is not about a lost peer, and peer_lost when a process was killed.
double run_processes(int count, const std::function<void(int)>& body);

constexpr int kGateSteps = 20, kMostBlocks = 60;

// What one process measured; plain data, which lies in shared memory.
struct ProcessReport {
  double block_seconds[kMostBlocks];  // of one step, the mean over a block
  Phases phases;                      // of one step, the mean over all; a gate's: of all steps
  double cpu_seconds;                 // of one step
  int64_t peak, tags[kMemoryTags];    // bytes of tensors at their most in a step: all, by tag
  ProcessMemory memory;
  uint64_t seen;              // samples_seen() after the run
  double losses[kGateSteps];  // of a gate's run
};

struct Timing {
  int warm_up = 10, blocks = 30;
};
struct RunReport {
  std::vector<ProcessReport> processes;
  int blocks = 0;
  double seconds = 0;          // from the first fork to the last end
  double foreign = 0;          // the share of the machine's CPU time that went to others
  bool ranks_equal = true;     // gate: every process ended with the same bits
  std::vector<float> weights;  // gate: of the first process
};
RunReport time_steps(const Cell& cell, Scheme scheme, int devices, const Timing& timing);
RunReport run_gate(const Cell& cell, Scheme scheme, int devices);  // kGateSteps steps

// Seconds that a copy and an all-reduce (shm) of these many bytes take a rank, and that it takes to
// wake the threads of DataParallel and wait for them.
struct Link {
  int64_t small_bytes = 4 << 10, large_bytes = 4 << 20;
  double reduce_small = 0, reduce_large = 0, copy_large = 0, wake = 0;
};
Link measure_link(int ranks);

}  // namespace pinion::bench
