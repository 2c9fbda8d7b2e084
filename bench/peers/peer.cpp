// SPDX-License-Identifier: Apache-2.0
// The workloads behind a C interface, so that one process can alternate them with PyTorch's.
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "pinion/bench/workloads.h"
#include "pinion/runtime/device.h"

namespace {

thread_local std::string error;
std::unique_ptr<pinion::CpuContextGuard> context;
std::map<int, std::function<void()>> ready;

int guarded(const std::function<void()>& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return -1;
  }
}

const pinion::bench::Workload& workload(int i) { return pinion::bench::workloads().at(size_t(i)); }

}  // namespace

extern "C" {

int pinion_peer_count() { return static_cast<int>(pinion::bench::workloads().size()); }
const char* pinion_peer_name(int i) { return workload(i).name.c_str(); }
double pinion_peer_flops(int i) { return workload(i).flops; }
double pinion_peer_bytes(int i) { return workload(i).bytes; }
const char* pinion_peer_error() { return error.c_str(); }
const char* pinion_peer_isa() { return pinion::name_of(pinion::cpu_context().isa); }

// 0, or -1 with pinion_peer_error(). All calls come from one thread.
int pinion_peer_threads(int n) {
  return guarded([&] {
    context.reset();
    context = std::make_unique<pinion::CpuContextGuard>(n);
  });
}
int pinion_peer_open(int i) {
  return guarded([&] { ready[i] = workload(i).make(); });
}
int pinion_peer_run(int i, int times) {
  return guarded([&] {
    const auto& f = ready.at(i);
    for (int t = 0; t < times; ++t) f();
  });
}
int pinion_peer_close(int i) {
  return guarded([&] { ready.erase(i); });
}
}
