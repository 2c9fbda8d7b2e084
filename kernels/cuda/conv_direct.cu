// SPDX-License-Identifier: Apache-2.0
// Convolutions as their formulas stand: a thread for each element of the result, whose sum it takes
// in the order of the loops. For f64, and for what cuDNN has no engine for.
#include "pinion/kernels/cuda/conv_plan.h"
#include "pinion/kernels/cuda/launch.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
struct Images {
  T *x, *w, *y;  // [n,h,w,c], [k,r,s,c], [n,ho,wo,k]
};

template <class T>
__device__ __forceinline__ Accumulator<T> product(const T& a, const T& b) {
  return static_cast<Accumulator<T>>(a) * static_cast<Accumulator<T>>(b);
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward(ConvProblem p, Images<T> m, int64_t size) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t k = i % p.k, wo = i / p.k % p.wo, ho = i / p.k / p.wo % p.ho;
    const int64_t n = i / p.k / p.wo / p.ho;
    Accumulator<T> sum = 0;
    for (int64_t r = 0; r < p.r; ++r)
      for (int64_t s = 0; s < p.s; ++s) {
        const int64_t h = ho * p.conv.stride - p.conv.padding + r * p.conv.dilation;
        const int64_t w = wo * p.conv.stride - p.conv.padding + s * p.conv.dilation;
        if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
        const T* const x = m.x + ((n * p.h + h) * p.w + w) * p.c;
        const T* const weight = m.w + ((k * p.r + r) * p.s + s) * p.c;
        for (int64_t c = 0; c < p.c; ++c) sum += product(x[c], weight[c]);
      }
    m.y[i] = T(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_input(ConvProblem p, Images<T> m, int64_t size) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t c = i % p.c, w = i / p.c % p.w, h = i / p.c / p.w % p.h;
    const int64_t n = i / p.c / p.w / p.h;
    Accumulator<T> sum = 0;
    for (int64_t r = 0; r < p.r; ++r)
      for (int64_t s = 0; s < p.s; ++s) {
        // The row and column of y that read x here through weight (r, s), times the stride.
        const int64_t at_h = h + p.conv.padding - r * p.conv.dilation;
        const int64_t at_w = w + p.conv.padding - s * p.conv.dilation;
        const int64_t ho = at_h / p.conv.stride, wo = at_w / p.conv.stride;
        if (at_h < 0 || ho * p.conv.stride != at_h || ho >= p.ho) continue;
        if (at_w < 0 || wo * p.conv.stride != at_w || wo >= p.wo) continue;
        const T* const dy = m.y + ((n * p.ho + ho) * p.wo + wo) * p.k;
        const T* const weight = m.w + (r * p.s + s) * p.c + c;
        for (int64_t k = 0; k < p.k; ++k) sum += product(dy[k], weight[k * p.r * p.s * p.c]);
      }
    m.x[i] = T(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_weight(ConvProblem p, Images<T> m, int64_t size) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t c = i % p.c, s = i / p.c % p.s, r = i / p.c / p.s % p.r;
    const int64_t k = i / p.c / p.s / p.r;
    Accumulator<T> sum = 0;
    for (int64_t n = 0; n < p.n; ++n)
      for (int64_t ho = 0; ho < p.ho; ++ho)
        for (int64_t wo = 0; wo < p.wo; ++wo) {
          const int64_t h = ho * p.conv.stride - p.conv.padding + r * p.conv.dilation;
          const int64_t w = wo * p.conv.stride - p.conv.padding + s * p.conv.dilation;
          if (h < 0 || h >= p.h || w < 0 || w >= p.w) continue;
          sum += product(m.x[((n * p.h + h) * p.w + w) * p.c + c],
                         m.y[((n * p.ho + ho) * p.wo + wo) * p.k + k]);
        }
    m.w[i] = T(sum);
  }
}

template <class T>
void run(const CudaContext& ctx, const ConvProblem& p, const Images<T>& m) {
  const auto launch_over = [&](auto* kernel, int64_t size) {
    launch(kernel, {blocks_for(size, kThreads), kThreads}, ctx, p, m, size);
  };
  switch (p.pass) {
    case ConvPass::forward: return launch_over(forward<T>, p.n * p.ho * p.wo * p.k);
    case ConvPass::backward_input: return launch_over(backward_input<T>, p.n * p.h * p.w * p.c);
    case ConvPass::backward_weight: return launch_over(backward_weight<T>, p.k * p.r * p.s * p.c);
  }
}

}  // namespace

void convolve_directly(const CudaContext& ctx, const ConvProblem& p, const ConvData& d) {
  for_float(p.dtype, "conv2d", [&]<class T>() {
    run<T>(ctx, p,
           {static_cast<T*>(d.data[0]), static_cast<T*>(d.data[1]), static_cast<T*>(d.data[2])});
  });
}

}  // namespace pinion::kernels::cuda
