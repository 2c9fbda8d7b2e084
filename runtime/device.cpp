// SPDX-License-Identifier: Apache-2.0
#include "pinion/runtime/device.h"

#include <sched.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "pinion/kernels/cpu/isa.h"
#include "pinion/kernels/cpu/parallel.h"

#ifdef PINION_WITH_CUDA
#include "pinion/kernels/cuda/backend.h"
#endif

namespace pinion {
namespace {

constexpr const char* kIsaNames[] = {"scalar", "avx2", "avx512", "amx"};
thread_local const CpuContext* current_context = nullptr;

int default_threads() {
  const char* text = std::getenv("PINION_NUM_THREADS");
  if (!text || !*text) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }
  int threads = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, status] = std::from_chars(text, end, threads);
  PINION_REQUIRE(config, status == std::errc{} && stop == end && threads >= 1 && threads <= 4096,
                 "PINION_NUM_THREADS: expected a number from 1 to 4096, got \"", text, "\"");
  return threads;
}

Isa default_isa() {
  const Isa best = best_isa();
  const char* text = std::getenv("PINION_CPU_ISA");
  if (!text || !*text) return best;
  for (int i = 0; i < 4; ++i)
    if (std::strcmp(text, kIsaNames[i]) == 0) {
      PINION_REQUIRE(config, static_cast<Isa>(i) <= best, "PINION_CPU_ISA: this CPU reaches ",
                     name_of(best), ", got \"", text, "\"");
      return static_cast<Isa>(i);
    }
  fail(ErrorKind::config,
       {"PINION_CPU_ISA: expected scalar, avx2, avx512 or amx, got \"", text, "\""});
}

const CpuContext& default_context() {
  static kernels::ThreadPool pool(default_threads());
  static const CpuContext context{&pool, default_isa()};
  return context;
}

}  // namespace

std::string Device::name() const {
  return kind == Kind::cpu ? "cpu" : "cuda:" + std::to_string(index);
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "auto") return cuda_device_count() > 0 ? Device{Device::Kind::cuda, 0} : Device{};
  const bool cuda = text.substr(0, 4) == "cuda" && (text.size() == 4 || text[4] == ':');
  int index = 0;
  if (cuda && text.size() > 4) {
    const char *begin = text.data() + 5, *end = text.data() + text.size();
    const auto [stop, status] = std::from_chars(begin, end, index);
    PINION_REQUIRE(usage, status == std::errc{} && stop == end && index >= 0,
                   "device: expected a number after \"cuda:\", got \"", text, "\"");
  }
  PINION_REQUIRE(usage, cuda, "device: expected cpu, cuda, cuda:N or auto, got \"", text, "\"");
#ifndef PINION_WITH_CUDA
  fail_no_cuda();
#else
  const int count = cuda_device_count();
  PINION_REQUIRE(device, index < count, "device: cuda:", index, " asked for, found ", count,
                 " CUDA devices");
  return {Device::Kind::cuda, index};
#endif
}

void fail_no_cuda() {
  fail(ErrorKind::device, {"device: cuda asked for, but this build of Pinion has no CUDA backend; "
                           "configure with -DPINION_CUDA=ON, or use cpu"});
}

#ifdef PINION_WITH_CUDA
int cuda_device_count() { return cuda_backend::device_count(); }
const CudaContext& cuda_context(int index) { return cuda_backend::context(index); }
#else
int cuda_device_count() { return 0; }
const CudaContext& cuda_context(int) { fail_no_cuda(); }
#endif

const CpuContext& cpu_context() {
  if (!current_context) [[unlikely]]
    current_context = &default_context();
  return *current_context;
}

CpuContextGuard::CpuContextGuard(int threads, Isa isa)
    : context_{nullptr, isa}, previous_(current_context) {
  PINION_CHECK(isa <= best_isa(), "cpu context: this CPU reaches ", name_of(best_isa()), ", got ",
               name_of(isa));
  context_.pool = new kernels::ThreadPool(threads);
  current_context = &context_;
}
CpuContextGuard::CpuContextGuard(int threads) : CpuContextGuard(threads, cpu_context().isa) {}
CpuContextGuard::~CpuContextGuard() {
  current_context = previous_;
  delete context_.pool;
}

Isa best_isa() {
  static const Isa isa = kernels::detect_isa();
  return isa;
}
const char* name_of(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

void copy(Device to, void* dst, Device from, const void* src, int64_t bytes) {
  if (bytes == 0) return;
  if (to.kind == Device::Kind::cpu && from.kind == Device::Kind::cpu) {
    std::memcpy(dst, src, static_cast<size_t>(bytes));
    return;
  }
#ifdef PINION_WITH_CUDA
  const auto place = [](Device d) {
    return d.kind == Device::Kind::cuda ? d.index : cuda_backend::kHost;
  };
  cuda_backend::copy(place(to), dst, place(from), src, bytes);
#else
  fail_no_cuda();
#endif
}

void synchronize(Device device) {
  if (device.kind == Device::Kind::cpu) return;
#ifdef PINION_WITH_CUDA
  cuda_backend::synchronize(device.index);
#else
  fail_no_cuda();
#endif
}

}  // namespace pinion
