// SPDX-License-Identifier: Apache-2.0
// Softmax and log-softmax over the last dimension: a block for each row, a warp where rows are
// short. Each thread reads and writes elements of its own, so that y may be x.
#include "pinion/kernels/cuda/rows.cuh"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

template <class T, int N, int kThreads>
__global__ void __launch_bounds__(kThreads) softmax_rows(const T* x, int64_t n, T* y, bool log) {
  using A = Accumulator<T>;
  x += int64_t{blockIdx.x} * n;
  y += int64_t{blockIdx.x} * n;
  A top = static_cast<A>(-INFINITY);
  over_row<N, kThreads>(
      n, [&](const T& v) { top = greater_or_nan(top, static_cast<A>(v)); }, Read<T>{x});
  top = block_max<kThreads>(top);
  A sum = 0;
  over_row<N, kThreads>(
      n, [&](const T& v) { sum += math::exp_nonpositive(static_cast<A>(v) - top); }, Read<T>{x});
  sum = block_sum<kThreads>(sum);
  const A last = log ? math::log(sum) : A(1) / sum;
  over_row<N, kThreads>(
      n,
      [&](const T& v, T& result) {
        const A below = static_cast<A>(v) - top;
        result = T(log ? below - last : math::exp_nonpositive(below) * last);
      },
      Read<T>{x}, Write<T>{y});
}

template <class T, int N, int kThreads>
__global__ void __launch_bounds__(kThreads)
    softmax_gradient_rows(const T* y, const T* dy, int64_t n, T* dx, bool log) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * n;
  const Read<T> of_y{y + row}, of_dy{dy + row};
  A sum = 0;
  over_row<N, kThreads>(
      n,
      [&](const T& p, const T& g) {
        sum += log ? static_cast<A>(g) : static_cast<A>(p) * static_cast<A>(g);
      },
      of_y, of_dy);
  sum = block_sum<kThreads>(sum);
  over_row<N, kThreads>(
      n,
      [&](const T& y_at, const T& dy_at, T& result) {
        const A p = static_cast<A>(y_at), g = static_cast<A>(dy_at);
        result = T(log ? g - math::exp_nonpositive(p) * sum : p * (g - sum));
      },
      of_y, of_dy, Write<T>{dx + row});
}

void forward(const CudaContext& ctx, const char* who, const ConstView& x, const View& y, bool log) {
  const int64_t n = x.cols();
  if (x.numel() == 0) return;
  for_float(x.dtype, who, [&]<class T>() {
    const auto run = [&]<int N>() {
      launch_rows<N>(ctx, x.rows(), n, softmax_rows<T, N, kWarp>, softmax_rows<T, N, kRowThreads>,
                     x.as<T>(), n, y.as<T>(), log);
    };
    for_row_packs<T>(n, run, x.as<T>(), y.as<T>());
  });
}

void backward(const CudaContext& ctx, const char* who, const ConstView& y, const ConstView& dy,
              const View& dx, bool log) {
  const int64_t n = y.cols();
  if (y.numel() == 0) return;
  for_float(y.dtype, who, [&]<class T>() {
    const auto run = [&]<int N>() {
      launch_rows<N>(ctx, y.rows(), n, softmax_gradient_rows<T, N, kWarp>,
                     softmax_gradient_rows<T, N, kRowThreads>, y.as<T>(), dy.as<T>(), n, dx.as<T>(),
                     log);
    };
    for_row_packs<T>(n, run, y.as<T>(), dy.as<T>(), dx.as<T>());
  });
}

}  // namespace

void softmax_forward(const CudaContext& ctx, ConstView x, View y) {
  forward(ctx, "softmax_forward", x, y, false);
}
void softmax_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  backward(ctx, "softmax_backward", y, dy, dx, false);
}
void log_softmax_forward(const CudaContext& ctx, ConstView x, View y) {
  forward(ctx, "log_softmax_forward", x, y, true);
}
void log_softmax_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  backward(ctx, "log_softmax_backward", y, dy, dx, true);
}

}  // namespace pinion::kernels::cuda
