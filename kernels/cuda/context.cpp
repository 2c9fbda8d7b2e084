// SPDX-License-Identifier: Apache-2.0
// Devices, memory and copies by the CUDA runtime. It is linked statically and loads the driver on
// its first call, so that a program built with CUDA runs on machines that have none.
#include "pinion/kernels/cuda/context.cuh"

#include <atomic>
#include <mutex>

#include "pinion/kernels/check.h"
#include "pinion/kernels/cuda/backend.h"
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
    slot.context.workspace = new kernels::cuda::Workspace(slot.context.stream);
  });
  return slot.context;
}

int capability(int index) { return context(index).capability; }

void* allocate(int index, int64_t bytes) {
  context(index);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes > 0 ? static_cast<size_t>(bytes) : 1);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // the caller reports it: nobody else should meet it
    return nullptr;
  }
  check(status, "cudaMalloc");
  return data;
}

void release(int index, void* data, int64_t /*bytes*/) noexcept {
  if (cudaSetDevice(index) == cudaSuccess) (void)cudaFree(data);  // cudaFree waits for the device
}

void copy(int index, void* dst, const void* src, int64_t bytes) {
  const CudaContext& ctx = context(index);
  check(cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDefault, ctx.stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(ctx.stream), "cudaStreamSynchronize");
  ctx.workspace->check_indices();
}

}  // namespace cuda_backend
}  // namespace pinion
