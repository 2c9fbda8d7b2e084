// SPDX-License-Identifier: Apache-2.0
// Cross-entropy over class ids, the loss and its gradient together: the sum of weights first, then
// a block or a warp for each row, then the mean of the rows' losses in their order.
#include "pinion/kernels/cuda/rows.cuh"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kSumThreads = 1024;

struct Rows {
  const int64_t* target;
  const float* weight;  // null: 1 each
  int64_t ignore_index, classes;

  __device__ __forceinline__ bool outside(int64_t r) const {
    return target[r] < 0 || target[r] >= classes;
  }
  // What row r counts for: nothing when ignored or when its target is no class, which shows in the
  // sum of weights.
  __device__ __forceinline__ double weight_of(int64_t r) const {
    if (outside(r) || target[r] == ignore_index) return 0;
    return weight ? weight[r] : 1;
  }
};

// total[] = sum of weights, NaN when a target is neither a class nor ignored. One block.
template <class A>
__global__ void __launch_bounds__(kSumThreads) sum_of_weights(int64_t n, Rows rows, A* total) {
  double sum = 0;
  for (int64_t r = threadIdx.x; r < n; r += kSumThreads) {
    sum += rows.weight_of(r);
    if (rows.outside(r) && rows.target[r] != rows.ignore_index) sum = NAN;
  }
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *total = static_cast<A>(sum);
}

template <class T, int N, int kThreads>
__global__ void __launch_bounds__(kThreads)
    loss_rows(const T* x, Rows rows, Accumulator<T> smoothing, const Accumulator<T>* total,
              double* losses, T* dx) {
  using A = Accumulator<T>;
  const int64_t r = blockIdx.x, classes = rows.classes;
  x += r * classes;
  if (dx) dx += r * classes;
  const double w = rows.weight_of(r);
  if (w == 0) {  // the same for all threads of the block
    if (dx)
      over_row<N, kThreads>(
          classes, [](T& d) { d = T(A(0)); }, Write<T>{dx});
    if (threadIdx.x == 0) losses[r] = 0;
    return;
  }
  // One pass: the sum of exponentials follows the largest element seen so far.
  A top = static_cast<A>(-INFINITY), sum = 0, plain = 0;
  over_row<N, kThreads>(
      classes,
      [&](const T& logit) {
        const A v = logit, higher = greater_or_nan(v, top);
        if (higher != top) sum *= math::exp_nonpositive(top - higher), top = higher;
        sum += v == top ? A(1) : math::exp_nonpositive(v - top);  // both may be -infinity
        plain += v;
      },
      Read<T>{x});
  const A peak = block_max<kThreads>(top);
  sum = block_sum<kThreads>(top == peak ? sum : sum * math::exp_nonpositive(top - peak));
  const A mean = smoothing != 0 ? block_sum<kThreads>(plain) / static_cast<A>(classes) : A(0);
  const int64_t target = rows.target[r];
  const A hit = x[target];
  if (threadIdx.x == 0) {
    const A lse = peak + math::log(sum);
    losses[r] = w * static_cast<double>((1 - smoothing) * (lse - hit) + smoothing * (lse - mean));
  }
  if (!dx) return;  // no barrier follows
  const A share = static_cast<A>(w / static_cast<double>(*total)), scale = share / sum;
  const A base = share * smoothing / static_cast<A>(classes), at_target = share * (1 - smoothing);
  const auto gradient = [=](A logit) { return math::exp_nonpositive(logit - peak) * scale - base; };
  over_row<N, kThreads>(
      classes, [&](const T& logit, T& d) { d = T(gradient(logit)); }, Read<T>{x}, Write<T>{dx});
  // Once more where the target is, by the thread that has just written there.
  if (target / N % kThreads == threadIdx.x) dx[target] = T(gradient(hit) - at_target);
}

template <class A>
__global__ void __launch_bounds__(kSumThreads)
    mean_of_losses(const double* losses, int64_t n, const A* total, A* loss) {
  double sum = 0;
  for (int64_t r = threadIdx.x; r < n; r += kSumThreads) sum += losses[r];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *loss = static_cast<A>(sum / static_cast<double>(*total));
}

}  // namespace

void cross_entropy(const CudaContext& ctx, ConstView x, ConstView target, ConstView weight,
                   int64_t ignore_index, double smoothing, View loss, View total, View dx) {
  const int64_t n = x.rows(), classes = x.cols();
  const Rows rows{target.as<int64_t>(), weight ? weight.as<float>() : nullptr, ignore_index,
                  classes};
  const Scratch losses(ctx, n * static_cast<int64_t>(sizeof(double)));
  for_float(x.dtype, "cross_entropy", [&]<class T>() {
    using A = Accumulator<T>;
    launch(sum_of_weights<A>, {1, kSumThreads}, ctx, n, rows, total.as<A>());
    T* const gradient = dx ? dx.as<T>() : nullptr;
    const auto run = [&]<int N>() {
      launch_rows<N>(ctx, n, classes, loss_rows<T, N, kWarp>, loss_rows<T, N, kRowThreads>,
                     x.as<T>(), rows, static_cast<A>(smoothing), total.as<A>(), losses.as<double>(),
                     gradient);
    };
    if (n > 0) for_row_packs<T>(classes, run, x.as<T>(), gradient);
    launch(mean_of_losses<A>, {1, kSumThreads}, ctx, losses.as<double>(), n, total.as<A>(),
           loss.as<A>());
  });
}

}  // namespace pinion::kernels::cuda
