// SPDX-License-Identifier: Apache-2.0
// The machine under the benchmark: cores for threads, other people's CPU time, memory as the system
// counts it, and facts for the report.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace pinion::bench {

std::vector<int> usable_cores();  // that this process may run on

// Puts the calling thread, and those it starts, on these cores.
void pin(const std::vector<int>& cores);
// From now on place_thread() gives each thread of this process a core of its own: cores[0] to the
// first that asks, and so on, from the start again when there are more. None: it does nothing.
void plan_cores(std::vector<int> cores);
void place_thread();

// CPU seconds that all processes of the machine have used since it started, in steps of 10 ms.
double busy_seconds();
double own_cpu_seconds();  // of this process, all threads

// Of this process, bytes: its share of all pages, and the most that ever was resident.
struct ProcessMemory {
  int64_t pss = 0, high_water = 0;
};
ProcessMemory process_memory();

// What a reader needs to judge the figures: name and value.
std::vector<std::pair<std::string, std::string>> machine_facts();

}  // namespace pinion::bench
