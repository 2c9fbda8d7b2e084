// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016). The variance is that of
// the differences from the mean, so it loses no digits where the mean is large.
#include "pinion/kernels/cuda/layer_norm.cuh"

namespace pinion::kernels::cuda {
namespace {

template <class T, int N, int kThreads>
__global__ void __launch_bounds__(kThreads) normalise(Norm<T> norm, Residual<T> residual) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * norm.n, n = norm.n;
  if (residual.branch)  // x is this sum, of which a thread reads what it writes here
    over_row<N, kThreads>(
        n,
        [&](const T& x, const T& branch, bool kept, T& sum) {
          sum = T(static_cast<A>(x) + static_cast<A>(residual.dropped(branch, kept)));
        },
        Read<T>{residual.x + row}, Read<T>{residual.branch + row}, residual.kept(row),
        Write<T>{residual.sum + row});
  const Read<T> x{norm.x + row};
  const A share = A(1) / static_cast<A>(n);
  A sum = 0;
  over_row<N, kThreads>(
      n, [&](const T& v) { sum += static_cast<A>(v); }, x);
  const A center = block_sum<kThreads>(sum) * share;
  sum = 0;
  over_row<N, kThreads>(
      n,
      [&](const T& v) {
        const A d = static_cast<A>(v) - center;
        sum += d * d;
      },
      x);
  const A squares = block_sum<kThreads>(sum);
  const A spread = norm.form == LayerNormForm::torch ? A(1) / math::sqrt(squares * share + norm.eps)
                                                     : math::sqrt(squares / static_cast<A>(n - 1));
  const A factor = norm.factor(spread);
  over_row<N, kThreads>(
      n,
      [&](const T& v, const T& gamma, const T& beta, const T& own_gamma, const T& own_beta, T& y) {
        const A xhat = (static_cast<A>(v) - center) * factor;
        y = T(xhat * norm.scale(gamma, own_gamma) + norm.shift(beta, own_beta));
      },
      x, Read<T>{norm.gamma}, Read<T>{norm.beta}, ReadIf<T>{at(norm.delta_gamma, row)},
      ReadIf<T>{at(norm.delta_beta, row)}, Write<T>{norm.y + row});
  if (threadIdx.x == 0) norm.mean[blockIdx.x] = center, norm.spread[blockIdx.x] = spread;
}

}  // namespace

void layer_norm_forward(const CudaContext& ctx, LayerNormArgs args) {
  const int64_t rows = args.x.rows();
  if (rows == 0) return;
  for_float(args.x.dtype, "layer_norm_forward", [&]<class T>() {
    const Norm<T> v(args);
    const Residual<T> r(args.residual);
    const auto run = [&]<int N>() {
      launch_rows<N>(ctx, rows, v.n, normalise<T, N, kWarp>, normalise<T, N, kRowThreads>, v, r);
    };
    for_row_packs<T>(v.n, run, v.x, v.gamma, v.beta, v.delta_gamma, v.delta_beta, v.y, r.x,
                     r.branch, r.sum);
  });
}

}  // namespace pinion::kernels::cuda
