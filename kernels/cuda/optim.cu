// SPDX-License-Identifier: Apache-2.0
// Optimizer steps over flat arenas, one pass: every number is read once and written once. And what
// decides on them: the norm of the gradients, and whether they are finite.
#include "pinion/kernels/cuda/map.cuh"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/optim.h"
#include "pinion/kernels/step_control.h"

namespace pinion::kernels::cuda {
namespace {

// Weights, and where they go besides in 16 bits: to one of the two places, or none.
template <class T>
struct Weights {
  using Element = T;
  T* p;
  BFloat16* bf16;
  Half* f16;
  Weights(const View& w, const View& low)
      : p(w.as<T>()),
        bf16(low && low.dtype == DType::bf16 ? low.as<BFloat16>() : nullptr),
        f16(low && !bf16 ? low.as<Half>() : nullptr) {}
  template <int N>
  __device__ __forceinline__ Pack<T, N> load(int64_t i) const {
    return load_pack<N>(p + i);
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t i, const Pack<T, N>& pack) const {
    store_pack<N>(p + i, pack);
    if constexpr (std::is_same_v<T, float>) {
      if (bf16) round_to<N>(bf16 + i, pack);
      if (f16) round_to<N>(f16 + i, pack);
    }
  }

 private:
  template <int N, class Low>
  __device__ __forceinline__ static void round_to(Low* low, const Pack<T, N>& pack) {
    Pack<Low, N> rounded;
#pragma unroll
    for (int j = 0; j < N; ++j) rounded.v[j] = Low(pack.v[j]);
    store_pack<N>(low, rounded);
  }
};
template <int N, class T>
bool packs_begin_at(const Weights<T>& w, int64_t i) {
  return bytes_off<N>(w.p, i) == 0 && bytes_off<N>(w.bf16, i) == 0 && bytes_off<N>(w.f16, i) == 0;
}

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

// An update whose numbers stand in the device's memory: read by every thread, and counted by the
// last block, when all have read.
template <class U, class Description>
struct Controlled {
  Description s;
  StepControl* control;
  uint32_t* arrivals;

  __device__ __forceinline__ Step<U> now(const StepControl& c) const {
    Description d = s;
    d.lr = c.lr, d.grad_scale = c.grad_scale;
    if constexpr (requires { d.step; })
      d.step = static_cast<int64_t>(c.steps) + 1;
    else
      d.first = c.steps == 0;
    return {U(d)};
  }
};
template <class U, class D, class Loop>
__device__ __forceinline__ void over_elements(const Controlled<U, D>& f, const Loop& loop) {
  const StepControl control = *f.control;
  if (control.skip == 0) loop(f.now(control));
  if (last_block(f.arrivals) && threadIdx.x == 0 && control.skip == 0)
    f.control->steps = control.steps + 1;
}

__global__ void decide_on_device(const double* stats, int64_t arenas, const float* loss_scale,
                                 double max_norm, StepControl* control) {
  decide(stats, arenas, loss_scale, max_norm, control);
}
__global__ void update_on_device(const StepControl* control, LossScaleRule rule, LossScale* state) {
  update(control->skip != 0, rule, *state);
}

constexpr int kCountThreads = 256;

__global__ void __launch_bounds__(kCountThreads)
    count_pairs(const int64_t* a, const int64_t* b, int64_t n, int64_t* count) {
  int64_t equal = 0;
  for (int64_t i = threadIdx.x; i < n; i += kCountThreads) equal += a[i] == b[i];
  equal = block_sum<kCountThreads>(equal);
  if (threadIdx.x == 0) *count += equal;
}

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

namespace {

// f is a Step, or a Controlled one.
template <class T, class F>
void sgd(const CudaContext& ctx, const Weights<T>& weights, const ConstView& dw,
         const View& momentum, bool fresh, F f) {
  const Read<T> gradient{dw.as<T>()};
  const int64_t n = dw.numel();
  // Momentum may be uninitialised before the first step, so that step does not read it.
  if (!momentum)
    for_elements(ctx, n, f, weights, gradient);
  else if (fresh)
    for_elements(ctx, n, f, weights, gradient, Write<T>{momentum.as<T>()});
  else
    for_elements(ctx, n, f, weights, gradient, Update<T>{momentum.as<T>()});
}

template <class T, class F>
void adam(const CudaContext& ctx, const Weights<T>& weights, const ConstView& dw, const View& m,
          const View& v, const View& vmax, F f) {
  const Update<T> first{m.as<T>()}, second{v.as<T>()};
  const Read<T> gradient{dw.as<T>()};
  const int64_t n = dw.numel();
  if (vmax)
    for_elements(ctx, n, f, weights, gradient, first, second, Update<T>{vmax.as<T>()});
  else
    for_elements(ctx, n, f, weights, gradient, first, second);
}

StepControl* numbers(const View& control) {
  return reinterpret_cast<StepControl*>(control.as<double>());
}

}  // namespace

void sgd_step(const CudaContext& ctx, View w, ConstView dw, View momentum, SgdStep s) {
  for_float(w.dtype, "sgd_step", [&]<class T>() {
    using U = SgdUpdate<Accumulator<T>>;
    sgd<T>(ctx, {w, s.low}, dw, momentum, s.first, Step<U>{U(s)});
  });
}
void sgd_step_controlled(const CudaContext& ctx, View w, ConstView dw, View momentum, SgdStep s,
                         View control) {
  for_float(w.dtype, "sgd_step_controlled", [&]<class T>() {
    using U = SgdUpdate<Accumulator<T>>;
    sgd<T>(ctx, {w, s.low}, dw, momentum, false,
           Controlled<U, SgdStep>{s, numbers(control), ctx.workspace->arrivals()});
  });
}

void adam_step(const CudaContext& ctx, View w, ConstView dw, View m, View v, View vmax,
               AdamStep s) {
  for_float(w.dtype, "adam_step", [&]<class T>() {
    using U = AdamUpdate<Accumulator<T>>;
    adam<T>(ctx, {w, s.low}, dw, m, v, vmax, Step<U>{U(s)});
  });
}
void adam_step_controlled(const CudaContext& ctx, View w, ConstView dw, View m, View v, View vmax,
                          AdamStep s, View control) {
  for_float(w.dtype, "adam_step_controlled", [&]<class T>() {
    using U = AdamUpdate<Accumulator<T>>;
    adam<T>(ctx, {w, s.low}, dw, m, v, vmax,
            Controlled<U, AdamStep>{s, numbers(control), ctx.workspace->arrivals()});
  });
}

void decide_step(const CudaContext& ctx, ConstView stats, ConstView loss_scale, double max_norm,
                 View control) {
  launch(decide_on_device, {1, 1}, ctx, stats.as<double>(), stats.shape[0],
         loss_scale ? loss_scale.as<float>() : nullptr, max_norm, numbers(control));
}
void update_loss_scale(const CudaContext& ctx, ConstView control, LossScaleRule rule, View state) {
  launch(update_on_device, {1, 1}, ctx, reinterpret_cast<const StepControl*>(control.as<double>()),
         rule, reinterpret_cast<LossScale*>(state.as<float>()));
}

void count_equal(const CudaContext& ctx, ConstView a, ConstView b, View count) {
  launch(count_pairs, {1, kCountThreads}, ctx, a.as<int64_t>(), b.as<int64_t>(), a.numel(),
         count.as<int64_t>());
}

}  // namespace pinion::kernels::cuda
