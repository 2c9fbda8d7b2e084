// SPDX-License-Identifier: Apache-2.0
// Sorting and running sums by CUB, the one file that includes it: it is slow to compile. The
// simulator has stand-ins for its headers.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) count_up(int64_t n, int64_t* y) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride) y[i] = i;
}

// Calls an algorithm of CUB twice: for the bytes that it wants, and with them. It reports what was
// wrong with the kernels it launched.
template <class F>
void with_storage(const CudaContext& ctx, const char* what, F call) {
  size_t bytes = 0;
  check(call(nullptr, bytes), what);
  const Scratch storage(ctx, static_cast<int64_t>(bytes));
  check(call(storage.as<void>(), bytes), what);
}

template <class Key>
void sort_by(const CudaContext& ctx, const ConstView& keys, const View& sorted, const View& index) {
  const int64_t n = keys.numel();
  const Scratch positions(ctx, n * static_cast<int64_t>(sizeof(int64_t)));
  launch(count_up, {blocks_for(n, kThreads), kThreads}, ctx, n, positions.as<int64_t>());
  with_storage(ctx, "cub::DeviceRadixSort", [&](void* storage, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(storage, bytes, keys.as<Key>(), sorted.as<Key>(),
                                           positions.as<int64_t>(), index.as<int64_t>(), n, 0,
                                           static_cast<int>(8 * sizeof(Key)), ctx.stream);
  });
}

}  // namespace

void sort_pairs(const CudaContext& ctx, ConstView keys, View sorted, View index) {
  if (keys.numel() == 0) return;
  keys.dtype == DType::i32 ? sort_by<int32_t>(ctx, keys, sorted, index)
                           : sort_by<int64_t>(ctx, keys, sorted, index);
}

void exclusive_scan(const CudaContext& ctx, ConstView x, View y) {
  if (y.numel() == 0) return;
  with_storage(ctx, "cub::DeviceScan", [&](void* storage, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(storage, bytes, x.as<int64_t>(), y.as<int64_t>(),
                                         y.numel(), ctx.stream);
  });
}

}  // namespace pinion::kernels::cuda
