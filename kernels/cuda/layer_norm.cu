// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016). The variance is that of
// the differences from the mean, so it loses no digits where the mean is large.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int64_t kShortRow = 256;  // elements that one warp takes alone
constexpr int kColumnThreads = 256;
constexpr int kSlices = 16;     // of the rows of one part
constexpr int64_t kParts = 64;  // partial sums of dgamma and dbeta, at most

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    normalise(const T* x, const T* gamma, const T* beta, int64_t n, Accumulator<T> eps, T* y,
              Accumulator<T>* mean, Accumulator<T>* rstd) {
  using A = Accumulator<T>;
  x += int64_t{blockIdx.x} * n;
  y += int64_t{blockIdx.x} * n;
  const A share = A(1) / static_cast<A>(n);
  A sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += static_cast<A>(x[i]);
  const A center = block_sum<kThreads>(sum) * share;
  sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A d = static_cast<A>(x[i]) - center;
    sum += d * d;
  }
  const A scale = A(1) / math::sqrt(block_sum<kThreads>(sum) * share + eps);
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A xhat = (static_cast<A>(x[i]) - center) * scale;
    y[i] = T(xhat * static_cast<A>(gamma[i]) + static_cast<A>(beta[i]));
  }
  if (threadIdx.x == 0) mean[blockIdx.x] = center, rstd[blockIdx.x] = scale;
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    normalise_backward(const T* x, const T* gamma, const Accumulator<T>* mean,
                       const Accumulator<T>* rstd, const T* dy, int64_t n, T* dx) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * n;
  const A center = mean[blockIdx.x], scale = rstd[blockIdx.x], share = A(1) / static_cast<A>(n);
  A sum_g = 0, sum_gx = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A g = static_cast<A>(dy[row + i]) * static_cast<A>(gamma[i]);
    sum_g += g;
    sum_gx += g * ((static_cast<A>(x[row + i]) - center) * scale);
  }
  const A mean_g = block_sum<kThreads>(sum_g) * share;
  const A mean_gx = block_sum<kThreads>(sum_gx) * share;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A g = static_cast<A>(dy[row + i]) * static_cast<A>(gamma[i]);
    const A xhat = (static_cast<A>(x[row + i]) - center) * scale;
    dx[row + i] = T((g - mean_g - xhat * mean_gx) * scale);
  }
}

template <class A>
struct ColumnSums {
  A gamma[kSlices][kWarp], beta[kSlices][kWarp];
};

// parts[p,0,:] and parts[p,1,:] = sums of dy xhat and of dy over the rows of part p; a block has
// kWarp columns and kSlices slices of the part's rows.
template <class T>
__global__ void __launch_bounds__(kWarp* kSlices)
    weight_gradients(const T* x, const Accumulator<T>* mean, const Accumulator<T>* rstd,
                     const T* dy, int64_t rows, int64_t n, int64_t rows_each,
                     Accumulator<T>* parts) {
  using A = Accumulator<T>;
  const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const int64_t begin = blockIdx.y * rows_each;
  const int64_t end = begin + rows_each < rows ? begin + rows_each : rows;
  A dgamma = 0, dbeta = 0;
  if (c < n)
    for (int64_t r = begin + threadIdx.y; r < end; r += kSlices) {
      const A d = dy[r * n + c];
      dgamma += d * ((static_cast<A>(x[r * n + c]) - mean[r]) * rstd[r]);
      dbeta += d;
    }
  ColumnSums<A>& sums = block_shared<ColumnSums<A>>();
  sums.gamma[threadIdx.y][threadIdx.x] = dgamma;
  sums.beta[threadIdx.y][threadIdx.x] = dbeta;
  __syncthreads();
  if (threadIdx.y != 0 || c >= n) return;  // no barrier follows
  for (int s = 1; s < kSlices; ++s) {
    dgamma += sums.gamma[s][threadIdx.x];
    dbeta += sums.beta[s][threadIdx.x];
  }
  parts[(blockIdx.y * 2) * n + c] = dgamma;
  parts[(blockIdx.y * 2 + 1) * n + c] = dbeta;
}

// The sum over parts; dgamma and dbeta may be null.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    add_parts(const Accumulator<T>* parts, int64_t count, int64_t n, T* dgamma, T* dbeta) {
  const int64_t c = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
  if (c >= n) return;
  Accumulator<T> gamma = 0, beta = 0;
  for (int64_t p = 0; p < count; ++p) {
    gamma += parts[(p * 2) * n + c];
    beta += parts[(p * 2 + 1) * n + c];
  }
  if (dgamma) dgamma[c] = T(gamma);
  if (dbeta) dbeta[c] = T(beta);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void layer_norm_forward(const CudaContext& ctx, ConstView x, ConstView gamma, ConstView beta,
                        double eps, View y, View mean, View rstd) {
  const int64_t n = x.cols();
  if (x.rows() == 0) return;
  const unsigned rows = one_block_each(x.rows());
  for_float(x.dtype, "layer_norm_forward", [&]<class T>() {
    using A = Accumulator<T>;
    const auto run = [&](auto kernel, unsigned threads) {
      launch(kernel, {rows, threads}, ctx, x.as<T>(), gamma.as<T>(), beta.as<T>(), n,
             static_cast<A>(eps), y.as<T>(), mean.as<A>(), rstd.as<A>());
    };
    n <= kShortRow ? run(normalise<T, kWarp>, kWarp) : run(normalise<T, 256>, 256);
  });
}

void layer_norm_backward(const CudaContext& ctx, ConstView x, ConstView gamma, ConstView mean,
                         ConstView rstd, ConstView dy, View dx, View dgamma, View dbeta) {
  const int64_t n = x.cols(), rows = x.rows();
  for_float(x.dtype, "layer_norm_backward", [&]<class T>() {
    using A = Accumulator<T>;
    if (dx && rows * n > 0) {
      const auto run = [&](auto kernel, unsigned threads) {
        launch(kernel, {one_block_each(rows), threads}, ctx, x.as<T>(), gamma.as<T>(), mean.as<A>(),
               rstd.as<A>(), dy.as<T>(), n, dx.as<T>());
      };
      n <= kShortRow ? run(normalise_backward<T, kWarp>, kWarp)
                     : run(normalise_backward<T, 256>, 256);
    }
    if ((!dgamma && !dbeta) || n == 0) return;
    const int64_t wanted = ceil_div(rows, 4 * kSlices), most = wanted < kParts ? wanted : kParts;
    const int64_t rows_each = most > 0 ? ceil_div(rows, most) : 0;
    const int64_t count = most > 0 ? ceil_div(rows, rows_each) : 0;
    const Scratch parts(ctx, count * 2 * n * static_cast<int64_t>(sizeof(A)));
    if (count > 0)
      launch(weight_gradients<T>,
             {dim3(one_block_each(ceil_div(n, kWarp)), static_cast<unsigned>(count)),
              dim3(kWarp, kSlices)},
             ctx, x.as<T>(), mean.as<A>(), rstd.as<A>(), dy.as<T>(), rows, n, rows_each,
             parts.as<A>());
    launch(add_parts<T>, {one_block_each(ceil_div(n, kColumnThreads)), kColumnThreads}, ctx,
           parts.as<A>(), count, n, dgamma ? dgamma.as<T>() : nullptr,
           dbeta ? dbeta.as<T>() : nullptr);
  });
}

}  // namespace pinion::kernels::cuda
