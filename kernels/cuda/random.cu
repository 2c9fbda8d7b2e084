// SPDX-License-Identifier: Apache-2.0
// Random numbers: element i is a function of the key and i alone (kernels/philox.h), so the device
// draws what the CPU draws.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kDrawThreads = 256;

// A thread draws four words and takes the four elements that they belong to.
template <class T>
__global__ void __launch_bounds__(kDrawThreads)
    drop(const T* x, int64_t n, PhiloxKey key, uint32_t threshold, formulas::Dropout f, T* y) {
  const int64_t stride = int64_t{gridDim.x} * kDrawThreads;
  for (int64_t block = int64_t{blockIdx.x} * kDrawThreads + threadIdx.x; block < (n + 3) / 4;
       block += stride) {
    const Philox4 words = philox(key, static_cast<uint64_t>(block));
    for (int j = 0; j < 4 && block * 4 + j < n; ++j) {
      const int64_t i = block * 4 + j;
      y[i] = T(f(static_cast<Accumulator<T>>(x[i]), words.v[j] < threshold));
    }
  }
}

}  // namespace

void dropout(const CudaContext& ctx, ConstView x, double p, PhiloxKey key, View y) {
  const int64_t n = y.numel();
  if (n == 0) return;
  if (p <= 0) return map1(ctx, "dropout", formulas::Affine{1, 0}, x, y);
  for_float(x.dtype, "dropout", [&]<class T>() {
    launch(drop<T>, {blocks_for((n + 3) / 4, kDrawThreads), kDrawThreads}, ctx, x.as<T>(), n, key,
           bernoulli_threshold(1 - p), formulas::Dropout{1 / (1 - p)}, y.as<T>());
  });
}

}  // namespace pinion::kernels::cuda
