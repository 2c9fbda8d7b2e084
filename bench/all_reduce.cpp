// SPDX-License-Identifier: Apache-2.0
// pinion_all_reduce: how long the all-reduce of an f32 sum takes on shm, beside a copy of as many
// bytes that every rank makes for itself at the same time, between the library's blocks (which lie
// in huge pages where they can), and between pages of 4 KiB. A line each: what, bytes, and of a
// call on rank 0 the median and least microseconds and the mean of the CPU's.
// bench/peers/all_reduce.py puts others beside it.
//   pinion_all_reduce [ranks=2] [milliseconds=300]   time for each line
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "pinion/dist/group/shm_group.h"
#include "pinion/runtime/device.h"

namespace {

using Clock = std::chrono::steady_clock;
using pinion::Tensor;
using pinion::dist::ProcessGroup;

double microseconds(Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

double cpu_microseconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

// Calls `once` about as often as fits, equally often on every rank.
template <class F>
void time_calls(ProcessGroup& group, const char* what, int64_t bytes, double milliseconds, F once) {
  for (int i = 0; i < 3; ++i) once();
  const auto start = Clock::now();
  for (int i = 0; i < 5; ++i) once();
  const double each = microseconds(Clock::now() - start) / 5;
  Tensor calls = Tensor::full({1}, std::clamp(milliseconds * 1000 / each, 5.0, 20'000.0));
  group.broadcast(calls, 0).wait();
  std::vector<double> times;
  group.barrier().wait();
  const double cpu = cpu_microseconds();
  for (int i = static_cast<int>(calls.item()); i > 0; --i) {
    const auto begin = Clock::now();
    once();
    times.push_back(microseconds(Clock::now() - begin));
  }
  const double cpu_each = (cpu_microseconds() - cpu) / static_cast<double>(times.size());
  std::sort(times.begin(), times.end());
  if (group.rank() == 0)
    std::printf("%s %lld %.3f %.3f %.3f\n", what, static_cast<long long>(bytes),
                times[times.size() / 2], times[0], cpu_each);
}

// Every rank on a core of its own where there are enough, as mpirun does.
void bind_to_core(int rank, int ranks) {
  cpu_set_t all, one;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < ranks) return;
  CPU_ZERO(&one);
  for (int cpu = 0, left = rank; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &all) && left-- == 0) CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
}

class SmallPages {
 public:
  explicit SmallPages(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) std::abort();
    madvise(data_, bytes_, MADV_NOHUGEPAGE);
    std::memset(data_, 0, bytes_);
  }
  ~SmallPages() { munmap(data_, bytes_); }
  SmallPages(const SmallPages&) = delete;
  SmallPages& operator=(const SmallPages&) = delete;
  void* data() { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

void measure(ProcessGroup& group, double milliseconds) {
  for (const int64_t bytes : {4L << 10, 256L << 10, 4L << 20, 25L << 20}) {
    const int64_t count = bytes / 4;
    Tensor shared = group.symmetric({count}, pinion::DType::f32, {});
    Tensor own = Tensor::zeros({count}), copy = Tensor::zeros({count});
    time_calls(group, "memcpy", bytes, milliseconds, [&] { copy.copy_(own); });
    SmallPages from(bytes), to(bytes);
    time_calls(group, "memcpy-4k", bytes, milliseconds,
               [&] { std::memcpy(to.data(), from.data(), static_cast<size_t>(bytes)); });
    time_calls(group, "shm-symmetric", bytes, milliseconds,
               [&] { group.all_reduce(shared).wait(); });
    time_calls(group, "shm-private", bytes, milliseconds, [&] { group.all_reduce(own).wait(); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  const double milliseconds = argc > 2 ? std::atof(argv[2]) : 300;
  if (ranks < 1 || milliseconds <= 0) {
    std::fprintf(stderr, "usage: pinion_all_reduce [ranks] [milliseconds], both above 0\n");
    return 64;
  }
  const auto segment = pinion::dist::ShmSegment::create(ranks);
  for (int r = 0; r < ranks; ++r)
    if (fork() == 0) {
      int code = 0;
      try {
        const pinion::CpuContextGuard one_thread(1);
        const auto group = pinion::dist::make_shm_group(segment, r);
        bind_to_core(r, ranks);  // later than the group, which counts the cores it may use
        measure(*group, milliseconds);
      } catch (const pinion::Error& e) {
        std::fprintf(stderr, "pinion_all_reduce: rank %d: %s\n", r, e.what());
        code = e.exit_code();
      }
      std::fflush(nullptr);
      _exit(code);
    }
  int worst = 0, status = 0;
  while (wait(&status) > 0) worst = std::max(worst, WIFEXITED(status) ? WEXITSTATUS(status) : 70);
  return worst;
}
