// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016). The variance is that of
// the differences from the mean, so it loses no digits where the mean is large.
#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int64_t kShortRow = 256;  // elements that one warp takes alone
constexpr int kColumnThreads = 256;
constexpr int kSlices = 16;     // of the rows of one part
constexpr int64_t kParts = 64;  // partial sums of dgamma and dbeta, at most

// LayerNormArgs with types, for the device; no delta is null.
template <class T>
struct Norm {
  using A = Accumulator<T>;
  LayerNormForm form;
  A eps;
  int64_t n;
  const T *x, *gamma, *beta, *delta_gamma, *delta_beta, *dy;
  A *mean, *spread;
  T *y, *dx, *ddelta_gamma;

  explicit Norm(const LayerNormArgs& args)
      : form(args.form),
        eps(static_cast<A>(args.eps)),
        n(args.x.cols()),
        x(args.x.as<T>()),
        gamma(args.gamma.as<T>()),
        beta(optional(args.beta)),
        delta_gamma(optional(args.delta_gamma)),
        delta_beta(optional(args.delta_beta)),
        dy(optional(args.dy)),
        mean(args.mean.as<A>()),
        spread(args.spread.as<A>()),
        y(optional(args.y)),
        dx(optional(args.dx)),
        ddelta_gamma(optional(args.ddelta_gamma)) {}

  // Of row element `at`, in column c.
  __device__ __forceinline__ A scale(int64_t at, int64_t c) const {
    const A shared = static_cast<A>(gamma[c]);
    return delta_gamma ? shared + static_cast<A>(delta_gamma[at]) : shared;
  }
  __device__ __forceinline__ A shift(int64_t at, int64_t c) const {
    const A shared = static_cast<A>(beta[c]);
    return delta_beta ? shared + static_cast<A>(delta_beta[at]) : shared;
  }
  // What differences from the mean are multiplied by, given the row's spread: rstd, or the standard
  // deviation.
  __device__ __forceinline__ A factor(A spread_of_row) const {
    return form == LayerNormForm::torch ? spread_of_row : A(1) / (spread_of_row + eps);
  }
  // What the sum of g xhat is multiplied by. std moves by d / ((n - 1) std) per x, d being its
  // difference from the mean, and not at all where all elements are equal.
  __device__ __forceinline__ A share(A spread_of_row) const {
    if (form == LayerNormForm::torch) return A(1) / static_cast<A>(n);
    const bool flat = !(spread_of_row > 0);
    return flat ? A(0) : (spread_of_row + eps) / (static_cast<A>(n - 1) * spread_of_row);
  }

 private:
  template <class Void>
  static auto* optional(const BasicView<Void>& v) {
    return v ? v.template as<T>() : nullptr;
  }
};

// ResidualArgs with types, for the device; `dsum` and `dbranch` may be null.
template <class T>
struct Residual {
  using A = Accumulator<T>;
  const T *x, *branch;
  T* sum;
  const T* dsum;
  T* dbranch;
  bool draws;
  ReplayedKey key;
  uint32_t threshold;
  formulas::Dropout drop;

  explicit Residual(const ResidualArgs& r)
      : x(r.branch ? r.x.template as<T>() : nullptr),
        branch(r.branch ? r.branch.template as<T>() : nullptr),
        sum(r.branch ? r.sum.template as<T>() : nullptr),
        dsum(r.dsum ? r.dsum.template as<T>() : nullptr),
        dbranch(r.dbranch ? r.dbranch.template as<T>() : nullptr),
        draws(r.dropout > 0 && (branch || dbranch)),
        key(draws ? ReplayedKey(r.key) : ReplayedKey()),
        threshold(bernoulli_threshold(1 - r.dropout)),
        drop{1 / (1 - r.dropout)} {}

  // f(i, kept) for the elements of a row of n that begins at element `row`: four at a time, for
  // which the words of random numbers are drawn together.
  template <int kThreads, class F>
  __device__ __forceinline__ void for_row(int64_t row, int64_t n, F f) const {
    const PhiloxKey now = key.now();
    for (int64_t block = row / 4 + threadIdx.x; block * 4 < row + n; block += kThreads) {
      const Philox4 words = draws ? philox(now, static_cast<uint64_t>(block)) : Philox4{};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t i = block * 4 + j;
        if (row <= i && i < row + n) f(i, words.v[j] < threshold);
      }
    }
  }
  __device__ __forceinline__ T dropped(T v, bool kept) const {
    return T(drop(static_cast<A>(v), kept));
  }
};

// What a row's kernel has besides where there is no residual connection.
struct NoResidual {};

template <class T, int kThreads, class R>
__global__ void __launch_bounds__(kThreads) normalise(Norm<T> norm, R residual) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * norm.n, n = norm.n;
  const T* x = norm.x + row;
  if constexpr (!std::is_same_v<R, NoResidual>) {
    residual.template for_row<kThreads>(row, n, [&](int64_t i, bool kept) {
      const A branch = static_cast<A>(residual.dropped(residual.branch[i], kept));
      residual.sum[i] = T(static_cast<A>(residual.x[i]) + branch);
    });
    __syncthreads();  // x is this sum
  }
  const A share = A(1) / static_cast<A>(n);
  A sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += static_cast<A>(x[i]);
  const A center = block_sum<kThreads>(sum) * share;
  sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A d = static_cast<A>(x[i]) - center;
    sum += d * d;
  }
  const A squares = block_sum<kThreads>(sum);
  const A spread = norm.form == LayerNormForm::torch ? A(1) / math::sqrt(squares * share + norm.eps)
                                                     : math::sqrt(squares / static_cast<A>(n - 1));
  const A factor = norm.factor(spread);
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A xhat = (static_cast<A>(x[i]) - center) * factor;
    norm.y[row + i] = T(xhat * norm.scale(row + i, i) + norm.shift(row + i, i));
  }
  if (threadIdx.x == 0) norm.mean[blockIdx.x] = center, norm.spread[blockIdx.x] = spread;
}

template <class T, int kThreads, class R>
__global__ void __launch_bounds__(kThreads) normalise_backward(Norm<T> norm, R residual) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * norm.n, n = norm.n;
  const A center = norm.mean[blockIdx.x], spread = norm.spread[blockIdx.x];
  const A factor = norm.factor(spread);
  A sum_g = 0, sum_gx = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const A dy = static_cast<A>(norm.dy[row + i]), g = dy * norm.scale(row + i, i);
    const A xhat = (static_cast<A>(norm.x[row + i]) - center) * factor;
    sum_g += g;
    sum_gx += g * xhat;
    if (norm.ddelta_gamma) norm.ddelta_gamma[row + i] = T(dy * xhat);
  }
  if (!norm.dx) return;  // in all threads
  const A mean_g = block_sum<kThreads>(sum_g) / static_cast<A>(n);
  const A mean_gx = block_sum<kThreads>(sum_gx) * norm.share(spread);
  const auto dx = [&](int64_t i) {
    const A g = static_cast<A>(norm.dy[row + i]) * norm.scale(row + i, i);
    const A xhat = (static_cast<A>(norm.x[row + i]) - center) * factor;
    return T((g - mean_g - xhat * mean_gx) * factor);
  };
  if constexpr (std::is_same_v<R, NoResidual>) {
    for (int64_t i = threadIdx.x; i < n; i += kThreads) norm.dx[row + i] = dx(i);
  } else {
    residual.template for_row<kThreads>(row, n, [&](int64_t i, bool kept) {
      T d = dx(i - row);
      if (residual.dsum) d = T(static_cast<A>(residual.dsum[i]) + static_cast<A>(d));
      norm.dx[i] = d;
      if (residual.dbranch) residual.dbranch[i] = residual.dropped(d, kept);
    });
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
    weight_gradients(Norm<T> norm, int64_t rows, int64_t rows_each, Accumulator<T>* parts) {
  using A = Accumulator<T>;
  const int64_t n = norm.n;
  const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const int64_t begin = blockIdx.y * rows_each;
  const int64_t end = begin + rows_each < rows ? begin + rows_each : rows;
  A dgamma = 0, dbeta = 0;
  if (c < n)
    for (int64_t r = begin + threadIdx.y; r < end; r += kSlices) {
      const A d = norm.dy[r * n + c], factor = norm.factor(norm.spread[r]);
      dgamma += d * ((static_cast<A>(norm.x[r * n + c]) - norm.mean[r]) * factor);
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

template <class T, class F>
void with_residual(const ResidualArgs& args, bool there, F f) {
  there ? f(Residual<T>(args)) : f(NoResidual());
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void layer_norm_forward(const CudaContext& ctx, LayerNormArgs args) {
  if (args.x.rows() == 0) return;
  const unsigned rows = one_block_each(args.x.rows());
  for_float(args.x.dtype, "layer_norm_forward", [&]<class T>() {
    const Norm<T> norm(args);
    with_residual<T>(
        args.residual, static_cast<bool>(args.residual.branch), [&]<class R>(R residual) {
          norm.n <= kShortRow ? launch(normalise<T, kWarp, R>, {rows, kWarp}, ctx, norm, residual)
                              : launch(normalise<T, 256, R>, {rows, 256}, ctx, norm, residual);
        });
  });
}

void layer_norm_backward(const CudaContext& ctx, LayerNormArgs args) {
  const int64_t n = args.x.cols(), rows = args.x.rows();
  for_float(args.x.dtype, "layer_norm_backward", [&]<class T>() {
    using A = Accumulator<T>;
    const Norm<T> norm(args);
    if ((norm.dx || norm.ddelta_gamma) && rows * n > 0) {
      const unsigned blocks = one_block_each(rows);
      const ResidualArgs& r = args.residual;
      with_residual<T>(r, r.dsum || r.dbranch, [&]<class R>(R residual) {
        n <= kShortRow
            ? launch(normalise_backward<T, kWarp, R>, {blocks, kWarp}, ctx, norm, residual)
            : launch(normalise_backward<T, 256, R>, {blocks, 256}, ctx, norm, residual);
      });
    }
    if ((!args.dgamma && !args.dbeta) || n == 0) return;
    const int64_t wanted = ceil_div(rows, 4 * kSlices), most = wanted < kParts ? wanted : kParts;
    const int64_t rows_each = most > 0 ? ceil_div(rows, most) : 0;
    const int64_t count = most > 0 ? ceil_div(rows, rows_each) : 0;
    const Scratch parts(ctx, count * 2 * n * static_cast<int64_t>(sizeof(A)));
    if (count > 0)
      launch(weight_gradients<T>,
             {dim3(one_block_each(ceil_div(n, kWarp)), static_cast<unsigned>(count)),
              dim3(kWarp, kSlices)},
             ctx, norm, rows, rows_each, parts.as<A>());
    launch(add_parts<T>, {one_block_each(ceil_div(n, kColumnThreads)), kColumnThreads}, ctx,
           parts.as<A>(), count, n, args.dgamma ? args.dgamma.as<T>() : nullptr,
           args.dbeta ? args.dbeta.as<T>() : nullptr);
  });
}

}  // namespace pinion::kernels::cuda
