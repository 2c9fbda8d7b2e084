// SPDX-License-Identifier: Apache-2.0
// Softmax and log-softmax over the last dimension: a block for each row, a warp where rows are
// short. Each thread reads and writes elements of its own, so that y may be x.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int64_t kShortRow = 256;  // elements that one warp takes alone

template <class T, bool kLog, int kThreads>
__global__ void __launch_bounds__(kThreads) softmax_rows(const T* x, int64_t n, T* y) {
  using A = Accumulator<T>;
  x += int64_t{blockIdx.x} * n;
  y += int64_t{blockIdx.x} * n;
  A top = static_cast<A>(-INFINITY);
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    top = greater_or_nan(top, static_cast<A>(x[i]));
  top = block_max<kThreads>(top);
  A sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    sum += math::exp_nonpositive(static_cast<A>(x[i]) - top);
  sum = block_sum<kThreads>(sum);
  const A last = kLog ? math::log(sum) : A(1) / sum;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A below = static_cast<A>(x[i]) - top;
    y[i] = T(kLog ? below - last : math::exp_nonpositive(below) * last);
  }
}

template <class T, bool kLog, int kThreads>
__global__ void __launch_bounds__(kThreads)
    softmax_gradient_rows(const T* y, const T* dy, int64_t n, T* dx) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * n;
  A sum = 0;
  for (int64_t i = row + threadIdx.x; i < row + n; i += kThreads)
    sum += kLog ? static_cast<A>(dy[i]) : static_cast<A>(y[i]) * static_cast<A>(dy[i]);
  sum = block_sum<kThreads>(sum);
  for (int64_t i = row + threadIdx.x; i < row + n; i += kThreads) {
    const A p = static_cast<A>(y[i]), g = static_cast<A>(dy[i]);
    dx[i] = T(kLog ? g - math::exp_nonpositive(p) * sum : p * (g - sum));
  }
}

template <bool kLog>
void forward(const CudaContext& ctx, const char* who, const ConstView& x, const View& y) {
  const int64_t n = x.cols();
  if (x.numel() == 0) return;
  const unsigned rows = one_block_each(x.rows());
  for_float(x.dtype, who, [&]<class T>() {
    if (n <= kShortRow)
      launch(softmax_rows<T, kLog, kWarp>, {rows, kWarp}, ctx, x.as<T>(), n, y.as<T>());
    else
      launch(softmax_rows<T, kLog, 256>, {rows, 256}, ctx, x.as<T>(), n, y.as<T>());
  });
}

template <bool kLog>
void backward(const CudaContext& ctx, const char* who, const ConstView& y, const ConstView& dy,
              const View& dx) {
  const int64_t n = y.cols();
  if (y.numel() == 0) return;
  const unsigned rows = one_block_each(y.rows());
  for_float(y.dtype, who, [&]<class T>() {
    if (n <= kShortRow)
      launch(softmax_gradient_rows<T, kLog, kWarp>, {rows, kWarp}, ctx, y.as<T>(), dy.as<T>(), n,
             dx.as<T>());
    else
      launch(softmax_gradient_rows<T, kLog, 256>, {rows, 256}, ctx, y.as<T>(), dy.as<T>(), n,
             dx.as<T>());
  });
}

}  // namespace

void softmax_forward(const CudaContext& ctx, ConstView x, View y) {
  forward<false>(ctx, "softmax_forward", x, y);
}
void softmax_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  backward<false>(ctx, "softmax_backward", y, dy, dx);
}
void log_softmax_forward(const CudaContext& ctx, ConstView x, View y) {
  forward<true>(ctx, "log_softmax_forward", x, y);
}
void log_softmax_backward(const CudaContext& ctx, ConstView y, ConstView dy, View dx) {
  backward<true>(ctx, "log_softmax_backward", y, dy, dx);
}

}  // namespace pinion::kernels::cuda
