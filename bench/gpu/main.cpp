// SPDX-License-Identifier: Apache-2.0
// pinion_gpu_bench: times the kernels and steps of bench/gpu/cases.cpp on device 0 and prints JSON.
//   pinion_gpu_bench [--filter=TEXT] [--samples=30] [--out=FILE]
//   pinion_gpu_bench --list     what would be timed, with bytes and flops; needs no device
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "pinion/bench/gpu/stopwatch.h"
#include "pinion/kernels/cuda/context.cuh"
#include "pinion/runtime/allocator.h"
#include "pinion/runtime/fs.h"

namespace {

using namespace pinion;
using nlohmann::json;

struct Options {
  std::string filter, out;
  int samples = 30;
  bool list = false;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value = [&](std::string_view flag) {
      return argument.starts_with(flag) ? argv[i] + flag.size() : nullptr;
    };
    if (argument == "--list") {
      o.list = true;
    } else if (const char* part = value("--filter=")) {
      o.filter = part;
    } else if (const char* path = value("--out=")) {
      o.out = path;
    } else if (const char* number = value("--samples=")) {
      o.samples = std::atoi(number);
      PINION_REQUIRE(usage, o.samples > 0, "--samples: expected a number above 0, got ", number);
    } else {
      fail(ErrorKind::usage, {"expected --list, --filter=, --samples= or --out=, got ", argument});
    }
  }
  return o;
}

json describe(const bench::GpuCase& c) {
  return {{"id", c.id},       {"impl", "pinion"}, {"shape", c.shape()}, {"dtype", c.dtype()},
          {"bytes", c.bytes}, {"flops", c.flops}, {"cold", c.cold}};
}

json device_facts() {
  const int index = cuda_context(0).device;
  cudaDeviceProp p{};
  kernels::cuda::check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  int driver = 0, runtime = 0;
  kernels::cuda::check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  kernels::cuda::check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return {{"name", p.name},
          {"compute", std::to_string(p.major) + "." + std::to_string(p.minor)},
          {"multiprocessors", p.multiProcessorCount},
          {"l2_bytes", p.l2CacheSize},
          {"memory_bytes", p.totalGlobalMem},
          {"driver_cuda", driver},
          {"runtime_cuda", runtime}};
}

int run(const Options& o) {
  json out{{"impl", "pinion"}, {"bench", json::array()}};
  if (!o.list) out["device"] = device_facts();
  for (const bench::GpuCase& c : bench::gpu_cases()) {
    if (c.id.find(o.filter) == std::string::npos) continue;
    json row = describe(c);
    if (!o.list) {
      const bench::GpuTimes t = bench::time_on_gpu(c, o.samples);
      trim({Device::Kind::cuda, 0});
      row.update({{"sets", t.sets},
                  {"batch", t.batch},
                  {"host_us", t.host_us},
                  {"samples_us", t.samples_us}});
      std::fprintf(stderr, "%s\n", c.id.c_str());
    }
    out["bench"].push_back(row);
  }
  PINION_REQUIRE(usage, !out["bench"].empty(), "--filter: expected part of an id, got ", o.filter);
  const std::string text = out.dump(1) + "\n";
  if (o.out.empty())
    std::fputs(text.c_str(), stdout);
  else
    write_file_atomic(o.out, text);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const Error& e) {
    std::fprintf(stderr, "pinion_gpu_bench: %s\n", e.what());
    return e.exit_code();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "pinion_gpu_bench: %s\n", e.what());
    return static_cast<int>(ErrorKind::internal);
  }
}
