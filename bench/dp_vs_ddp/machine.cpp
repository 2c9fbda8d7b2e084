// SPDX-License-Identifier: Apache-2.0
// Everything here asks Linux: affinity masks, /proc and /sys.
#include "pinion/bench/dp_vs_ddp/machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"

namespace pinion::bench {
namespace {

std::vector<int> planned;
std::atomic<size_t> next_core{0};

// The file without its last newline, or `otherwise`.
std::string text_of(const std::string& path, const std::string& otherwise) {
  try {
    std::string text = read_file(path, 1 << 22);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  } catch (const Error&) {
    return otherwise;
  }
}

// What stands behind "name:" in a text of such lines; empty where it is not.
std::string line_of(const std::string& text, const std::string& name) {
  size_t at = text.rfind(name, 0) == 0 ? 0 : text.find("\n" + name);
  if (at == std::string::npos) return {};
  at = text.find(':', at);
  if (at == std::string::npos) return {};
  at = text.find_first_not_of(" \t:", at);
  return at == std::string::npos ? std::string() : text.substr(at, text.find('\n', at) - at);
}

int64_t kilobytes(const std::string& text, const std::string& name) {
  return std::strtoll(line_of(text, name).c_str(), nullptr, 10) * 1024;
}

}  // namespace

std::vector<int> usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  PINION_REQUIRE(device, sched_getaffinity(0, sizeof set, &set) == 0,
                 "dp_vs_ddp: expected to learn the usable cores, got ", std::strerror(errno));
  std::vector<int> cores;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) cores.push_back(i);
  return cores;
}

void pin(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  PINION_REQUIRE(device, sched_setaffinity(0, sizeof set, &set) == 0,
                 "dp_vs_ddp: expected to move to a core, got ", std::strerror(errno));
}

void plan_cores(std::vector<int> cores) {
  planned = std::move(cores);
  next_core = 0;
}

void place_thread() {
  thread_local bool placed = false;
  if (placed || planned.empty()) return;
  placed = true;
  pin({planned[next_core.fetch_add(1) % planned.size()]});
}

double busy_seconds() {
  const std::string text = read_file("/proc/stat", 1 << 22);
  // cpu user nice system idle iowait irq softirq steal; guests are part of user.
  double total = 0;
  const char* at = text.c_str() + 3;
  for (int field = 0; field < 8; ++field) {
    char* end = nullptr;
    const double ticks = std::strtod(at, &end);
    at = end;
    if (field != 3 && field != 4) total += ticks;
  }
  return total / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double own_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

ProcessMemory process_memory() {
  return {kilobytes(text_of("/proc/self/smaps_rollup", ""), "Pss:"),
          kilobytes(text_of("/proc/self/status", ""), "VmHWM:")};
}

std::vector<std::pair<std::string, std::string>> machine_facts() {
  const std::string cpu = line_of(text_of("/proc/cpuinfo", ""), "model name");
  rlimit lock{};
  getrlimit(RLIMIT_MEMLOCK, &lock);
  const std::string sys = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
  return {
      {"CPU", cpu.empty() ? "unknown" : cpu},
      {"usable cores", std::to_string(usable_cores().size())},
      {"kernels", name_of(best_isa())},
      {"governor", text_of(sys, "unknown")},
      {"transparent huge pages", text_of("/sys/kernel/mm/transparent_hugepage/enabled", "unknown")},
      {"memory that may be locked", lock.rlim_cur == RLIM_INFINITY
                                        ? std::string("unlimited")
                                        : fmt::format("{} bytes", lock.rlim_cur)},
      {"load average", text_of("/proc/loadavg", "unknown")},
      {"compiler", __VERSION__}};
}

}  // namespace pinion::bench
