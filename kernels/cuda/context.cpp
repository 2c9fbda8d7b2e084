// SPDX-License-Identifier: Apache-2.0
// Devices and their contexts by the CUDA runtime. It is linked statically and loads the driver on
// its first call, so that a program built with CUDA runs on machines that have none.
#include "pinion/kernels/cuda/context.cuh"

#include <cstdlib>
#include <mutex>
#include <string_view>

#include "pinion/kernels/check.h"
#include "pinion/kernels/cuda/backend.h"
#include "pinion/kernels/cuda/staging.h"
#include "pinion/kernels/cuda/workspace.h"

namespace pinion {
namespace {

using kernels::cuda::check;

constexpr int kMaxDevices = 64;  // of one process

struct Devices {
  cudaError_t status = cudaSuccess;
  int count = 0;
};

// Asked once: a driver does not come and go while a process runs.
const Devices& devices() {
  static const Devices found = [] {
    Devices d;
    d.status = cudaGetDeviceCount(&d.count);
    if (d.status != cudaSuccess) d.count = 0;
    if (d.count > kMaxDevices) d.count = kMaxDevices;
    return d;
  }();
  return found;
}

// A version as the runtime counts it: 13000 is 13.0.
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

[[noreturn]] void fail_no_device(int index) {
  const Devices& found = devices();
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    fail(ErrorKind::device, {"cuda: expected an NVIDIA driver, found none on this machine"});
  if (found.status == cudaErrorInsufficientDriver)
    fail(ErrorKind::device, {"cuda: expected an NVIDIA driver for CUDA ", version_text(runtime),
                             " or newer, got one for ", version_text(driver)});
  if (found.status != cudaSuccess && found.status != cudaErrorNoDevice)
    fail(ErrorKind::device,
         {"cuda: expected a list of devices, got \"", cudaGetErrorString(found.status), "\""});
  if (found.count == 0) fail(ErrorKind::device, {"cuda: expected a CUDA device, found none"});
  fail(ErrorKind::device, {"cuda: expected a device index in [0, ", found.count, "), got ", index});
}

// PINION_CUDA_CACHE=0: every block goes back to the device at once, see MemoryPool.
bool caching() {
  const char* text = std::getenv("PINION_CUDA_CACHE");
  if (!text || !*text) return true;
  const std::string_view value = text;
  PINION_REQUIRE(config, value == "0" || value == "1", "PINION_CUDA_CACHE: expected 0 or 1, got \"",
                 text, "\"");
  return value == "1";
}

// 90 for 9.0.
int capability_of(int index) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
        "cudaDeviceGetAttribute");
  return major * 10 + minor;
}

struct Slot {
  std::once_flag once;
  CudaContext context{};
};

// Never destroyed: tensors of static storage may outlive every other object of the program.
Slot* slots() {
  static Slot* const all = new Slot[kMaxDevices];
  return all;
}

}  // namespace

void kernels::cuda::fail_cuda(cudaError_t status, const char* what) {
  const bool memory = status == cudaErrorMemoryAllocation;
  fail(memory ? ErrorKind::out_of_memory : ErrorKind::device,
       {what, ": expected success, got \"", cudaGetErrorString(status), "\" (",
        cudaGetErrorName(status), ")"});
}

void CudaCounts::count_launch() { launches.fetch_add(1, std::memory_order_relaxed); }
void CudaCounts::count_replay() { replays.fetch_add(1, std::memory_order_relaxed); }

namespace cuda_backend {

int device_count() { return devices().count; }

const CudaContext& context(int index) {
  if (index < 0 || index >= devices().count) [[unlikely]]
    fail_no_device(index);
  // Another library of the process may have chosen another device since the last call.
  check(cudaSetDevice(index), "cudaSetDevice");
  Slot& slot = slots()[index];
  std::call_once(slot.once, [&] {
    slot.context.device = index;
    slot.context.capability = capability_of(index);
    check(cudaStreamCreateWithFlags(&slot.context.stream, cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
    slot.context.memory = new kernels::cuda::MemoryPool(index, caching());
    slot.context.staging = new kernels::cuda::Staging(slot.context.stream);
    slot.context.counts = new CudaCounts;
    slot.context.workspace = new kernels::cuda::Workspace(slot.context.stream);
  });
  return slot.context;
}

int capability(int index) { return context(index).capability; }

}  // namespace cuda_backend
}  // namespace pinion
