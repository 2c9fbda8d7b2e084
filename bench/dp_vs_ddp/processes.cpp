// SPDX-License-Identifier: Apache-2.0
// Forks, pins, times, and brings the figures back through shared memory.
#include "pinion/bench/dp_vs_ddp/processes.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>

#include "pinion/dist/group/shm_group.h"
#include "pinion/dist/parallel/device_threads.h"
#include "pinion/runtime/device.h"

namespace pinion::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kMostSeconds = 600;  // of one process

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Zeros that forked processes share.
template <class T>
class Shared {
 public:
  explicit Shared(size_t count) : count_(std::max<size_t>(count, 1)) {
    void* p = mmap(nullptr, count_ * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                   -1, 0);
    PINION_REQUIRE(out_of_memory, p != MAP_FAILED, "dp_vs_ddp: expected ", count_ * sizeof(T),
                   " bytes of shared memory, got none");
    data_ = static_cast<T*>(p);
  }
  ~Shared() { munmap(data_, count_ * sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator[](size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  size_t count_;
  T* data_ = nullptr;
};

struct Failure {
  int kind;
  char text[500];
};

[[noreturn]] void run_child(int index, const std::function<void(int)>& body, Failure& failure) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(kMostSeconds);
  int code = 0;
  const auto keep = [&](ErrorKind kind, const char* text) {
    code = failure.kind = static_cast<int>(kind);
    std::snprintf(failure.text, sizeof failure.text, "%s", text);
  };
  try {
    body(index);
  } catch (const Error& e) {
    keep(e.kind(), e.what());
  } catch (const std::exception& e) {
    keep(ErrorKind::internal, e.what());
  }
  _exit(code);
}

double cpu_of(const rusage& use) {
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

// The cores of device `device` of a run, or of all its devices where they are one process.
std::vector<int> cores_of(const SchemeFacts& facts, int devices, int device) {
  const std::vector<int> all = usable_cores();
  if (facts.scheme == Scheme::one || facts.scheme == Scheme::one_share) return {all[0]};
  if (facts.ranks) return {all[static_cast<size_t>(device) % all.size()]};
  std::vector<int> out;
  for (int d = 0; d < devices; ++d) out.push_back(all[static_cast<size_t>(d) % all.size()]);
  return out;
}

void settle(const SchemeFacts& facts, int devices, int device) {
  const std::vector<int> cores = cores_of(facts, devices, device);
  if (facts.scheme == Scheme::one_all_cores) return pin(cores);  // its pool spreads by itself
  pin({cores[0]});
  plan_cores(cores);
}

void time_process(Trainer& trainer, dist::ProcessGroup* group, int steps_per_block,
                  const Timing& timing, ProcessReport& report) {
  const auto meet = [&] {
    if (group) group->barrier().wait();
  };
  Phases phases;
  for (int i = 0; i < timing.warm_up; ++i) trainer.step(i, phases);
  phases = {};
  meet();
  reset_peak({});
  const double cpu = own_cpu_seconds();
  int step = timing.warm_up;
  for (int b = 0; b < timing.blocks; ++b) {
    const auto start = Clock::now();
    for (int i = 0; i < steps_per_block; ++i) trainer.step(step++, phases);
    report.block_seconds[b] = seconds_since(start) / steps_per_block;
  }
  const double steps = static_cast<double>(timing.blocks) * steps_per_block;
  report.cpu_seconds = (own_cpu_seconds() - cpu) / steps;
  for (double* p : {&phases.forward, &phases.backward, &phases.exchange, &phases.update})
    *p /= steps;
  report.phases = phases;
  report.peak = memory_stats({}).peak;
  for (int t = 0; t < kMemoryTags; ++t)
    report.tags[t] = memory_stats({}, static_cast<MemoryTag>(t)).peak;
  meet();  // all are there to share the pages they share
  report.memory = process_memory();
  meet();
}

RunReport run(const Cell& cell, Scheme scheme, int devices, const Timing* timing) {
  const SchemeFacts& facts = facts_of(scheme);
  const int count = facts.ranks ? devices : 1;
  const auto n = static_cast<size_t>(parameter_count(cell));
  Shared<ProcessReport> reports(static_cast<size_t>(count));
  Shared<float> weights(timing ? 0 : n * static_cast<size_t>(count));
  const auto segment = facts.ranks ? dist::ShmSegment::create(count) : nullptr;
  const double busy = busy_seconds();
  const auto start = Clock::now();
  const double own = run_processes(count, [&](int i) {
    settle(facts, devices, i);
    const CpuContextGuard threads(scheme == Scheme::one_all_cores ? devices : 1);
    const auto group = segment ? dist::make_shm_group(segment, i) : nullptr;
    Trainer trainer(cell, scheme, devices, group);
    ProcessReport& report = reports[static_cast<size_t>(i)];
    if (timing) return time_process(trainer, group.get(), cell.steps_per_block, *timing, report);
    Phases phases;
    for (int s = 0; s < kGateSteps; ++s) {
      trainer.step(s, phases);
      report.losses[s] = trainer.loss();
    }
    report.phases = phases;
    report.seen = samples_seen();
    const std::vector<float> mine = trainer.weights();
    std::copy(mine.begin(), mine.end(), weights.data() + n * static_cast<size_t>(i));
    if (group) group->barrier().wait();
  });
  RunReport out;
  out.seconds = seconds_since(start);
  const double all = out.seconds * static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
  out.foreign = std::max(0.0, busy_seconds() - busy - own) / all;
  out.processes.assign(reports.data(), reports.data() + count);
  if (timing) {
    out.blocks = timing->blocks;
    return out;
  }
  out.weights.assign(weights.data(), weights.data() + n);
  for (int i = 1; i < count; ++i)
    out.ranks_equal &= std::memcmp(weights.data(), weights.data() + n * static_cast<size_t>(i),
                                   n * sizeof(float)) == 0;
  return out;
}

// Half of the tries take less.
double median_seconds(int tries, const std::function<void()>& f) {
  std::vector<double> times;
  for (int i = 0; i < tries + 3; ++i) {
    const auto start = Clock::now();
    f();
    if (i >= 3) times.push_back(seconds_since(start));
  }
  std::nth_element(times.begin(), times.begin() + tries / 2, times.end());
  return times[static_cast<size_t>(tries) / 2];
}

}  // namespace

double run_processes(int count, const std::function<void(int)>& body) {
  Shared<Failure> failures(static_cast<size_t>(count));
  std::vector<pid_t> children;
  std::fflush(nullptr);
  for (int i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child == 0) run_child(i, body, failures[static_cast<size_t>(i)]);
    if (child < 0) break;
    children.push_back(child);
  }
  const bool all_there = children.size() == static_cast<size_t>(count);
  if (!all_there)
    for (const pid_t child : children) kill(child, SIGKILL);
  double cpu = 0;
  int killed = -1;
  for (size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    rusage use{};
    wait4(children[i], &status, 0, &use);
    cpu += cpu_of(use);
    if (WIFSIGNALED(status)) killed = static_cast<int>(i);
  }
  PINION_REQUIRE(device, all_there, "dp_vs_ddp: expected ", count, " processes, got ",
                 children.size(), ": ", std::strerror(errno));
  const Failure* first = nullptr;
  for (size_t i = 0; i < children.size(); ++i) {
    const Failure& f = failures[i];
    if (f.kind == 0) continue;
    if (!first || first->kind == static_cast<int>(ErrorKind::peer_lost)) first = &f;
  }
  PINION_REQUIRE(peer_lost, killed < 0, "dp_vs_ddp: expected process ", killed,
                 " to finish, but it was killed");
  if (first) throw Error(static_cast<ErrorKind>(first->kind), first->text);
  return cpu;
}

RunReport time_steps(const Cell& cell, Scheme scheme, int devices, const Timing& timing) {
  PINION_CHECK(timing.blocks >= 1 && timing.blocks <= kMostBlocks && timing.warm_up >= 1,
               "dp_vs_ddp: expected 1 to ", kMostBlocks, " blocks after a warm-up, got ",
               timing.blocks);
  return run(cell, scheme, devices, &timing);
}

RunReport run_gate(const Cell& cell, Scheme scheme, int devices) {
  return run(cell, scheme, devices, nullptr);
}

Link measure_link(int ranks) {
  Shared<Link> result(1);
  result[0] = Link();
  const auto segment = dist::ShmSegment::create(ranks);
  run_processes(ranks, [&](int i) {
    settle(facts_of(Scheme::ddp), ranks, i);
    const CpuContextGuard one_thread(1);
    const auto group = dist::make_shm_group(segment, i);
    Link link;
    Tensor small = group->symmetric({link.small_bytes / 4}, DType::f32, {});
    Tensor large = group->symmetric({link.large_bytes / 4}, DType::f32, {});
    const Tensor from = Tensor::zeros(large.shape());
    Tensor to = Tensor::zeros(large.shape());
    link.reduce_small = median_seconds(200, [&] { group->all_reduce(small).wait(); });
    link.reduce_large = median_seconds(20, [&] { group->all_reduce(large).wait(); });
    link.copy_large = median_seconds(20, [&] { to.copy_(from); });
    if (i == 0) result[0] = link;
    group->barrier().wait();
  });
  run_processes(1, [&](int) {
    settle(facts_of(Scheme::dp_tuned), ranks, 0);
    dist::DeviceThreads threads(ranks, 1);
    threads.run([](int) { place_thread(); });
    result[0].wake = median_seconds(200, [&] { threads.run([](int) {}); });
  });
  return result[0];
}

}  // namespace pinion::bench
