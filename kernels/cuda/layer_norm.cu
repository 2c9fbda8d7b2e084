// SPDX-License-Identifier: Apache-2.0
// Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016). The variance is that of
// the differences from the mean, so it loses no digits where the mean is large.
#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/cuda/rows.cuh"
#include "pinion/kernels/cuda/workspace.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

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

  // What one row's elements are multiplied by and what is added then: the shared vector's element,
  // and the row's own where there is one.
  __device__ __forceinline__ A scale(const T& shared, const T& own) const {
    return delta_gamma ? static_cast<A>(shared) + static_cast<A>(own) : static_cast<A>(shared);
  }
  __device__ __forceinline__ A shift(const T& shared, const T& own) const {
    return delta_beta ? static_cast<A>(shared) + static_cast<A>(own) : static_cast<A>(shared);
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

// What dropout keeps of a pack.
template <int N>
struct Kept {
  bool v[N];
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

  // f(i, kept) for the packs of the row of n that begins at element `row`, i counted from there,
  // or for single elements; the words of random numbers are drawn four together.
  template <int N, int kThreads, class F>
  __device__ __forceinline__ void for_row(int64_t row, int64_t n, F f) const {
    const PhiloxKey now = key.now();
    const auto words_of = [&](int64_t block) {
      return draws ? philox(now, static_cast<uint64_t>(block)) : Philox4{};
    };
    if constexpr (N == 1) {
      for (int64_t block = row / 4 + threadIdx.x; block * 4 < row + n; block += kThreads) {
        const Philox4 words = words_of(block);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t i = block * 4 + j - row;
          if (0 <= i && i < n) f(i, Kept<1>{{words.v[j] < threshold}});
        }
      }
    } else {
      for (int64_t i = int64_t{threadIdx.x} * N; i < n; i += kThreads * N) {
        Kept<N> kept;
#pragma unroll
        for (int quad = 0; quad < N / 4; ++quad) {
          const Philox4 words = words_of((row + i) / 4 + quad);
#pragma unroll
          for (int j = 0; j < 4; ++j) kept.v[quad * 4 + j] = words.v[j] < threshold;
        }
        f(i, kept);
      }
    }
  }
  __device__ __forceinline__ T dropped(T v, bool kept) const {
    return T(drop(static_cast<A>(v), kept));
  }
};

// Row `row` of an array that may be missing.
template <class T>
__device__ __forceinline__ T* at(T* p, int64_t row) {
  return p ? p + row : nullptr;
}

// What a row's kernel has besides where there is no residual connection.
struct NoResidual {};

template <class T, int N, int kThreads, class R>
__global__ void __launch_bounds__(kThreads) normalise(Norm<T> norm, R residual) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * norm.n, n = norm.n;
  if constexpr (!std::is_same_v<R, NoResidual>) {
    residual.template for_row<N, kThreads>(row, n, [&]<int M>(int64_t i, const Kept<M>& kept) {
      int j = 0;
      each<M>(
          [&](const T& x, const T& branch, T& sum) {
            sum = T(static_cast<A>(x) + static_cast<A>(residual.dropped(branch, kept.v[j++])));
          },
          row + i, Read<T>{residual.x}, Read<T>{residual.branch}, Write<T>{residual.sum});
    });
    __syncthreads();  // x is this sum
  }
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

template <class T, int N, int kThreads, class R>
__global__ void __launch_bounds__(kThreads) normalise_backward(Norm<T> norm, R residual) {
  using A = Accumulator<T>;
  const int64_t row = int64_t{blockIdx.x} * norm.n, n = norm.n;
  const A center = norm.mean[blockIdx.x], spread = norm.spread[blockIdx.x];
  const A factor = norm.factor(spread);
  const Read<T> x{norm.x + row}, dy{norm.dy + row}, gamma{norm.gamma};
  const ReadIf<T> own_gamma{at(norm.delta_gamma, row)};
  A sum_g = 0, sum_gx = 0;
  over_row<N, kThreads>(
      n,
      [&](const T& v, const T& d, const T& shared, const T& own, T& down) {
        const A g = static_cast<A>(d) * norm.scale(shared, own);
        const A xhat = (static_cast<A>(v) - center) * factor;
        sum_g += g;
        sum_gx += g * xhat;
        down = T(static_cast<A>(d) * xhat);
      },
      x, dy, gamma, own_gamma, WriteIf<T>{at(norm.ddelta_gamma, row)});
  if (!norm.dx) return;  // in all threads
  const A mean_g = block_sum<kThreads>(sum_g) / static_cast<A>(n);
  const A mean_gx = block_sum<kThreads>(sum_gx) * norm.share(spread);
  const auto dx = [&](const T& v, const T& d, const T& shared, const T& own) {
    const A g = static_cast<A>(d) * norm.scale(shared, own);
    const A xhat = (static_cast<A>(v) - center) * factor;
    return T((g - mean_g - xhat * mean_gx) * factor);
  };
  const Write<T> to{norm.dx + row};
  if constexpr (std::is_same_v<R, NoResidual>) {
    over_row<N, kThreads>(
        n,
        [&](const T& v, const T& d, const T& shared, const T& own, T& result) {
          result = dx(v, d, shared, own);
        },
        x, dy, gamma, own_gamma, to);
  } else {
    residual.template for_row<N, kThreads>(row, n, [&]<int M>(int64_t i, const Kept<M>& kept) {
      int j = 0;
      each<M>(
          [&](const T& v, const T& d, const T& shared, const T& own, const T& dsum, T& result,
              T& dbranch) {
            result = dx(v, d, shared, own);
            if (residual.dsum) result = T(static_cast<A>(dsum) + static_cast<A>(result));
            dbranch = residual.dropped(result, kept.v[j++]);
          },
          i, x, dy, gamma, own_gamma, ReadIf<T>{at(residual.dsum, row)}, to,
          WriteIf<T>{at(residual.dbranch, row)});
    });
  }
}

// Sums of a block's columns: column c of it at index c % N * kStride + c / N, so that neither lanes
// of neighbouring packs nor lanes of neighbouring columns meet in a bank.
template <class A, int N>
struct ColumnSums {
  static constexpr int kStride = kWarp + (N > 1 ? kWarp / N : 0);
  A gamma[kSlices][N * kStride], beta[kSlices][N * kStride];
};

// parts[p,0,:] and parts[p,1,:] = sums of dy xhat and of dy over the rows of part p; a block has
// kWarp packs of columns and kSlices slices of the part's rows.
template <class T, int N>
__global__ void __launch_bounds__(kWarp* kSlices)
    weight_gradients(Norm<T> norm, int64_t rows, int64_t rows_each, Accumulator<T>* parts) {
  using A = Accumulator<T>;
  using Sums = ColumnSums<A, N>;
  const int64_t n = norm.n;
  const int64_t first = int64_t{blockIdx.x} * kWarp * N, c = first + int64_t{threadIdx.x} * N;
  const int64_t begin = blockIdx.y * rows_each;
  const int64_t end = begin + rows_each < rows ? begin + rows_each : rows;
  A dgamma[N] = {}, dbeta[N] = {};
  if (c < n)
    for (int64_t r = begin + threadIdx.y; r < end; r += kSlices) {
      const A mean = norm.mean[r], factor = norm.factor(norm.spread[r]);
      int j = 0;
      each<N>(
          [&](const T& x, const T& dy) {
            const A d = dy;
            dgamma[j] += d * ((static_cast<A>(x) - mean) * factor);
            dbeta[j++] += d;
          },
          r * n + c, Read<T>{norm.x}, Read<T>{norm.dy});
    }
  Sums& sums = block_shared<Sums>();
#pragma unroll
  for (int j = 0; j < N; ++j) {
    sums.gamma[threadIdx.y][j * Sums::kStride + threadIdx.x] = dgamma[j];
    sums.beta[threadIdx.y][j * Sums::kStride + threadIdx.x] = dbeta[j];
  }
  __syncthreads();
  const int in = static_cast<int>(threadIdx.y * kWarp + threadIdx.x);
  if (in >= kWarp * N || first + in >= n) return;  // no barrier follows
  const int k = in % N * Sums::kStride + in / N;
  A gamma = sums.gamma[0][k], beta = sums.beta[0][k];
  for (int s = 1; s < kSlices; ++s) gamma += sums.gamma[s][k], beta += sums.beta[s][k];
  parts[(blockIdx.y * 2) * n + first + in] = gamma;
  parts[(blockIdx.y * 2 + 1) * n + first + in] = beta;
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
void with_residual(bool there, const Residual<T>& residual, F f) {
  there ? f(residual) : f(NoResidual());
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void layer_norm_forward(const CudaContext& ctx, LayerNormArgs args) {
  const int64_t rows = args.x.rows();
  if (rows == 0) return;
  for_float(args.x.dtype, "layer_norm_forward", [&]<class T>() {
    const Norm<T> v(args);
    const Residual<T> r(args.residual);
    const auto run = [&]<int N>() {
      with_residual(r.branch != nullptr, r, [&]<class R>(R residual) {
        launch_rows<N>(ctx, rows, v.n, normalise<T, N, kWarp, R>, normalise<T, N, kRowThreads, R>,
                       v, residual);
      });
    };
    for_row_packs<T>(v.n, run, v.x, v.gamma, v.beta, v.delta_gamma, v.delta_beta, v.y, r.x,
                     r.branch, r.sum);
  });
}

void layer_norm_backward(const CudaContext& ctx, LayerNormArgs args) {
  const int64_t n = args.x.cols(), rows = args.x.rows();
  for_float(args.x.dtype, "layer_norm_backward", [&]<class T>() {
    using A = Accumulator<T>;
    const Norm<T> v(args);
    const Residual<T> r(args.residual);
    const auto run_rows = [&]<int N>() {
      with_residual(r.dsum || r.dbranch, r, [&]<class R>(R residual) {
        launch_rows<N>(ctx, rows, n, normalise_backward<T, N, kWarp, R>,
                       normalise_backward<T, N, kRowThreads, R>, v, residual);
      });
    };
    if ((v.dx || v.ddelta_gamma) && rows * n > 0)
      for_row_packs<T>(n, run_rows, v.x, v.gamma, v.delta_gamma, v.dy, v.dx, v.ddelta_gamma, r.dsum,
                       r.dbranch);
    if ((!args.dgamma && !args.dbeta) || n == 0) return;
    const int64_t wanted = ceil_div(rows, 4 * kSlices), most = wanted < kParts ? wanted : kParts;
    const int64_t rows_each = most > 0 ? ceil_div(rows, most) : 0;
    const int64_t count = most > 0 ? ceil_div(rows, rows_each) : 0;
    const Scratch parts(ctx, count * 2 * n * static_cast<int64_t>(sizeof(A)));
    const auto run_columns = [&]<int N>() {
      launch(weight_gradients<T, N>,
             {dim3(one_block_each(ceil_div(n, kWarp * N)), static_cast<unsigned>(count)),
              dim3(kWarp, kSlices)},
             ctx, v, rows, rows_each, parts.as<A>());
    };
    if (count > 0) for_row_packs<T>(n, run_columns, v.x, v.dy);
    launch(add_parts<T>, {one_block_each(ceil_div(n, kColumnThreads)), kColumnThreads}, ctx,
           parts.as<A>(), count, n, args.dgamma ? args.dgamma.as<T>() : nullptr,
           args.dbeta ? args.dbeta.as<T>() : nullptr);
  });
}

}  // namespace pinion::kernels::cuda
