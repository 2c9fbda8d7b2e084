// SPDX-License-Identifier: Apache-2.0
// pinion_ranks: what happens when several ranks with several threads each share the cores. Starts
// `ranks` processes that add two vectors of 64 Ki floats as fast as they can, with one thread and
// with `threads` threads each, in turn, and prints regions per second and the ratio.
//   pinion_ranks [ranks=2] [threads=2] [seconds=1] [rounds=5]
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/device.h"

namespace {

using Clock = std::chrono::steady_clock;

double regions_per_second(int threads, double seconds) {
  const pinion::CpuContextGuard guard(threads);
  const pinion::NoGrad no_grad;
  const auto a = pinion::Tensor::full({65536}, 1), b = pinion::Tensor::full({65536}, 2);
  int64_t regions = 0;
  const auto start = Clock::now();
  double passed = 0;
  for (; passed < seconds; ++regions) {
    a + b;
    passed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return static_cast<double>(regions) / passed;
}

// The sum over the ranks.
double throughput(int ranks, int threads, double seconds) {
  auto* rates =
      static_cast<double*>(mmap(nullptr, sizeof(double) * static_cast<size_t>(ranks),
                                PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (rates == MAP_FAILED) std::exit(74);
  std::vector<pid_t> children;
  for (int r = 0; r < ranks; ++r) {
    const pid_t child = fork();
    if (child == 0) {
      rates[r] = regions_per_second(threads, seconds);
      _exit(0);
    }
    if (child > 0) children.push_back(child);
  }
  double sum = 0;
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  for (int r = 0; r < ranks; ++r) sum += rates[r];
  munmap(rates, sizeof(double) * static_cast<size_t>(ranks));
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2, threads = argc > 2 ? std::atoi(argv[2]) : 2;
  const double seconds = argc > 3 ? std::atof(argv[3]) : 1;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 5;
  if (ranks < 1 || threads < 1 || seconds <= 0 || rounds < 1) {
    std::fprintf(stderr, "usage: pinion_ranks [ranks] [threads] [seconds] [rounds], all above 0\n");
    return 64;
  }
  std::vector<double> ratios;
  for (int i = 0; i < rounds; ++i) {
    const double one = throughput(ranks, 1, seconds), many = throughput(ranks, threads, seconds);
    ratios.push_back(many / one);
    std::printf("%d ranks x 1 thread: %.0f regions/s   x %d threads: %.0f   ratio %.2f\n", ranks,
                one, threads, many, many / one);
  }
  std::sort(ratios.begin(), ratios.end());
  std::printf("ratio: min %.2f  median %.2f  max %.2f\n", ratios.front(), ratios[ratios.size() / 2],
              ratios.back());
}
