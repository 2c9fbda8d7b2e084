// SPDX-License-Identifier: Apache-2.0
// pinion_bench: every workload, and forward plus backward of every row of the operation tests,
// under Google Benchmark. `pinion_bench --benchmark_filter=softmax` times a part.
#include <benchmark/benchmark.h>

#include "pinion/bench/workloads.h"

namespace {

using namespace pinion;

void time_workload(benchmark::State& state, const bench::Workload& w) {
  const auto run = w.make();
  for (auto _ : state) run();
  if (w.bytes > 0)
    state.counters["bytes"] = benchmark::Counter(
        w.bytes, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1024);
  if (w.flops > 0)
    state.counters["flops"] =
        benchmark::Counter(w.flops, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  for (const auto& w : bench::workloads())
    benchmark::RegisterBenchmark(w.name.c_str(), [&w](benchmark::State& state) {
      time_workload(state, w);
    })->UseRealTime();
  benchmark::RunSpecifiedBenchmarks();
}
