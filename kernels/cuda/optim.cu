// SPDX-License-Identifier: Apache-2.0
// Optimizer steps over flat arenas, one pass: every number is read once and written once. And what
// decides on them: the norm of the gradients, and whether they are finite.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/optim.h"

namespace pinion::kernels::cuda {
namespace {

// Computes an update in the accumulator type; what is stored as T is rounded.
template <class U>
struct Step {
  U update;
  template <class T, class... State>
  __device__ __forceinline__ void operator()(T& w, const T& dw, State&... state) const {
    using A = Accumulator<T>;
    const auto run = [&](A weight, auto... sums) {
      update(weight, static_cast<A>(dw), sums...);
      w = T(weight);
      ((state = T(sums)), ...);
    };
    run(static_cast<A>(w), static_cast<A>(state)...);
  }
};

constexpr int kNormThreads = 256;
constexpr int kNormBlocks = 512;

struct Norm {
  double squares, nonfinite;
};

// Every block leaves its sums in parts; the last to arrive adds them in their order.
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    norm(const T* x, int64_t n, Norm* parts, uint32_t* arrivals, double* out) {
  using A = Accumulator<T>;
  constexpr int N = 16 / sizeof(T);
  const int64_t first = int64_t{blockIdx.x} * kNormThreads + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * kNormThreads;
  double squares = 0, nonfinite = 0;
  const auto take = [&](A v) {
    squares += static_cast<double>(v) * static_cast<double>(v);
    nonfinite += v - v == 0 ? 0 : 1;
  };
  const int64_t packs = reinterpret_cast<uintptr_t>(x) % 16 == 0 ? n / N : 0;
  for (int64_t p = first; p < packs; p += stride) {
    const Pack<T, N> pack = load_pack<N>(x + p * N);
#pragma unroll
    for (int j = 0; j < N; ++j) take(static_cast<A>(pack.v[j]));
  }
  for (int64_t i = packs * N + first; i < n; i += stride) take(static_cast<A>(x[i]));
  squares = block_sum<kNormThreads>(squares);
  nonfinite = block_sum<kNormThreads>(nonfinite);
  if (threadIdx.x == 0) parts[blockIdx.x] = {squares, nonfinite};
  if (!last_block(arrivals)) return;
  squares = nonfinite = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += kNormThreads) {
    squares += parts[b].squares;
    nonfinite += parts[b].nonfinite;
  }
  squares = block_sum<kNormThreads>(squares);
  nonfinite = block_sum<kNormThreads>(nonfinite);
  if (threadIdx.x == 0) out[0] = squares, out[1] = nonfinite;
}

}  // namespace

void squares_and_nonfinite(const CudaContext& ctx, ConstView x, View out) {
  const int64_t n = x.numel();
  for_float(x.dtype, "squares_and_nonfinite", [&]<class T>() {
    constexpr int64_t kEach = 16 / sizeof(T);
    const unsigned wanted = blocks_for(n / kEach + 1, kNormThreads);
    const unsigned blocks = wanted < kNormBlocks ? wanted : kNormBlocks;
    const Scratch parts(ctx, blocks * int64_t{sizeof(Norm)});
    launch(norm<T>, {blocks, kNormThreads}, ctx, x.as<T>(), n, parts.as<Norm>(),
           ctx.workspace->arrivals(), out.as<double>());
  });
}

void sgd_step(const CudaContext& ctx, View w, ConstView dw, View momentum, SgdStep s) {
  for_float(w.dtype, "sgd_step", [&]<class T>() {
    const Step<SgdUpdate<Accumulator<T>>> step{SgdUpdate<Accumulator<T>>(s)};
    const Update<T> weights{w.as<T>()};
    const Read<T> gradient{dw.as<T>()};
    const int64_t n = w.numel();
    // Momentum may be uninitialised before the first step, so that step does not read it.
    if (!momentum)
      for_elements(ctx, n, step, weights, gradient);
    else if (s.first)
      for_elements(ctx, n, step, weights, gradient, Write<T>{momentum.as<T>()});
    else
      for_elements(ctx, n, step, weights, gradient, Update<T>{momentum.as<T>()});
  });
}

void adam_step(const CudaContext& ctx, View w, ConstView dw, View m, View v, View vmax,
               AdamStep s) {
  for_float(w.dtype, "adam_step", [&]<class T>() {
    const Step<AdamUpdate<Accumulator<T>>> step{AdamUpdate<Accumulator<T>>(s)};
    const Update<T> weights{w.as<T>()}, first{m.as<T>()}, second{v.as<T>()};
    const Read<T> gradient{dw.as<T>()};
    const int64_t n = w.numel();
    if (vmax)
      for_elements(ctx, n, step, weights, gradient, first, second, Update<T>{vmax.as<T>()});
    else
      for_elements(ctx, n, step, weights, gradient, first, second);
  });
}

}  // namespace pinion::kernels::cuda
