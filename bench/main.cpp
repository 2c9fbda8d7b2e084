// SPDX-License-Identifier: Apache-2.0
// pinion_bench: every workload, and forward plus backward of every row of the operation tests
// (op/ROW/DTYPE), under Google Benchmark. `pinion_bench --benchmark_filter=softmax` times a part.
#include <benchmark/benchmark.h>

#include <string>

#include "pinion/bench/workloads.h"
#include "pinion/tests/nn/op_inputs.h"

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

void time_row(benchmark::State& state, const testing::OpCase& row, DType dtype) {
  Tensors x = testing::make_leaves(row, dtype);
  const Tensor dy = testing::make_cotangent(row.run(x));
  for (auto _ : state) {
    const Tensor y = row.run(x);
    if (!y.node()) continue;
    backward(y, dy);
    for (size_t i = 0; i < x.size(); ++i) x[i].set_grad({});
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  for (const auto& w : bench::workloads())
    benchmark::RegisterBenchmark(w.name.c_str(), [&w](benchmark::State& state) {
      time_workload(state, w);
    })->UseRealTime();
  for (const auto& row : testing::op_cases())
    for (const DType dtype : {DType::f32, DType::bf16})
      benchmark::RegisterBenchmark(
          (std::string("op/") + row.name + "/" + name_of(dtype)).c_str(),
          [&row, dtype](benchmark::State& state) { time_row(state, row, dtype); })
          ->UseRealTime();
  benchmark::RunSpecifiedBenchmarks();
}
