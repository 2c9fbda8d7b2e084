// SPDX-License-Identifier: Apache-2.0
// Shuffled orders of samples, and batches gathered by them. An index outside its range reads as 0
// and is reported when the host next waits for the device.
#include "pinion/kernels/convert.h"
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/permutation.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    draw_order(int64_t count, int64_t first, Permutation permutation, int64_t* order) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride)
    order[i] = permutation(first + i);
}

struct Batch {
  int64_t samples, cols;   // of x
  int64_t n, rows, width;  // indices; of y
  WrongIndex* report;
};

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    gather_rows(const From* x, const int64_t* index, Batch b, To* y) {
  const int64_t stride = int64_t{gridDim.x} * kThreads, numel = b.rows * b.width;
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < numel; k += stride) {
    const int64_t r = k / b.width, c = k % b.width;
    bool there = r < b.n && c < b.cols;
    const int64_t i = there ? index[r] : 0;
    if (i < 0 || i >= b.samples) {
      if (there && atomicExch(&b.report->found, 1u) == 0)
        b.report->who = "gather_cast", b.report->got = i, b.report->extent = b.samples;
      there = false;
    }
    y[k] = there ? convert<To>(x[i * b.cols + c]) : convert<To>(0.0f);
  }
}

}  // namespace

void permute(const CudaContext& ctx, int64_t n, PhiloxKey key, int64_t first, View order) {
  const int64_t count = order.numel();
  if (count == 0) return;
  launch(draw_order, {blocks_for(count, kThreads), kThreads}, ctx, count, first,
         Permutation(n, key), order.as<int64_t>());
}

void gather_cast(const CudaContext& ctx, ConstView x, ConstView index, View y) {
  const int64_t numel = y.numel();
  if (numel == 0) return;
  const Batch batch{x.shape[0], x.cols(), index.numel(),
                    y.rows(),   y.cols(), ctx.workspace->wrong_index()};
  for_any(x.dtype, "gather_cast", [&]<class From>() {
    for_float(y.dtype, "gather_cast", [&]<class To>() {
      launch(gather_rows<From, To>, {blocks_for(numel, kThreads), kThreads}, ctx, x.as<From>(),
             index.as<int64_t>(), batch, y.as<To>());
    });
  });
}

}  // namespace pinion::kernels::cuda
