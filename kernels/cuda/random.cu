// SPDX-License-Identifier: Apache-2.0
// Random numbers: element i is a function of the key and i alone (kernels/philox.h), so the device
// draws what the CPU draws.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kDrawThreads = 256;

// A thread draws four words and takes the four elements that they belong to.
template <class T>
__global__ void __launch_bounds__(kDrawThreads)
    drop(const T* x, int64_t n, ReplayedKey at, uint32_t threshold, formulas::Dropout f, T* y) {
  const PhiloxKey key = at.now();
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

// Element i is word i % 4 of block i / 4. A float's product is exact in double, so that every
// device rounds alike; rounding may reach the open end, which is drawn as the low one then.
template <class T>
__global__ void __launch_bounds__(kDrawThreads)
    draw_uniform(int64_t n, ReplayedKey at, T low, T high, T span, T* y) {
  const PhiloxKey key = at.now();
  const int64_t stride = int64_t{gridDim.x} * kDrawThreads;
  for (int64_t block = int64_t{blockIdx.x} * kDrawThreads + threadIdx.x; block < (n + 3) / 4;
       block += stride) {
    const Philox4 words = philox(key, static_cast<uint64_t>(block));
    for (int j = 0; j < 4 && block * 4 + j < n; ++j) {
      const double at = static_cast<double>(span) * uniform01(words.v[j]);
      const T value = static_cast<T>(static_cast<double>(low) + at);
      y[block * 4 + j] = value < high ? value : low;
    }
  }
}

// Two normal numbers of each two words.
template <class T>
__global__ void __launch_bounds__(kDrawThreads)
    draw_normal(int64_t n, ReplayedKey at, T mean, T std, T* y) {
  const PhiloxKey key = at.now();
  const int64_t stride = int64_t{gridDim.x} * kDrawThreads;
  for (int64_t block = int64_t{blockIdx.x} * kDrawThreads + threadIdx.x; block < (n + 3) / 4;
       block += stride) {
    const Philox4 words = philox(key, static_cast<uint64_t>(block));
    for (int j = 0; j < 4; j += 2) {
      const auto first = static_cast<T>(positive01(static_cast<float>(words.v[j])));
      const auto z = math::box_muller(first, static_cast<T>(uniform01(words.v[j + 1])));
      if (block * 4 + j < n) y[block * 4 + j] = z.cos * std + mean;
      if (block * 4 + j + 1 < n) y[block * 4 + j + 1] = z.sin * std + mean;
    }
  }
}

template <class T>
void uniform_of(const CudaContext& ctx, const View& x, const PhiloxKey& key, T low, T high,
                double span) {
  const int64_t n = x.numel();
  launch(draw_uniform<T>, {blocks_for((n + 3) / 4, kDrawThreads), kDrawThreads}, ctx, n,
         ReplayedKey(key), low, high, static_cast<T>(span), x.as<T>());
}
template <class T>
void normal_of(const CudaContext& ctx, const View& x, const PhiloxKey& key, double mean,
               double std) {
  const int64_t n = x.numel();
  launch(draw_normal<T>, {blocks_for((n + 3) / 4, kDrawThreads), kDrawThreads}, ctx, n,
         ReplayedKey(key), static_cast<T>(mean), static_cast<T>(std), x.as<T>());
}

}  // namespace

void uniform(const CudaContext& ctx, View x, PhiloxKey key, double lo, double hi) {
  if (x.numel() == 0) return;
  if (x.dtype == DType::f64) return uniform_of(ctx, x, key, lo, hi, hi - lo);
  uniform_of(ctx, x, key, static_cast<float>(lo), static_cast<float>(hi), hi - lo);
}

void normal(const CudaContext& ctx, View x, PhiloxKey key, double mean, double std) {
  if (x.numel() == 0) return;
  if (x.dtype == DType::f64) return normal_of<double>(ctx, x, key, mean, std);
  normal_of<float>(ctx, x, key, mean, std);
}

void dropout(const CudaContext& ctx, ConstView x, double p, PhiloxKey key, View y) {
  const int64_t n = y.numel();
  if (n == 0) return;
  if (p <= 0) return map1(ctx, "dropout", formulas::Affine{1, 0}, x, y);
  for_float(x.dtype, "dropout", [&]<class T>() {
    launch(drop<T>, {blocks_for((n + 3) / 4, kDrawThreads), kDrawThreads}, ctx, x.as<T>(), n,
           ReplayedKey(key), bernoulli_threshold(1 - p), formulas::Dropout{1 / (1 - p)}, y.as<T>());
  });
}

}  // namespace pinion::kernels::cuda
