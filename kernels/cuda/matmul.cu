// SPDX-License-Identifier: Apache-2.0
// Matrix products of any strides and types on the ordinary cores, with sums in the accumulator type
// in the order of k; what tensor cores can take goes to matmul_tensor.cu or matmul_sm90a.cu, and
// large products to cuBLASLt where it is there.
#include "pinion/kernels/cuda/matmul.cuh"
#include "pinion/kernels/cuda/matmul_library.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {
namespace {

constexpr int kTile = 64;  // rows and columns of the result that a block computes
constexpr int kDepth = 16;
constexpr int kEach = 4;  // rows and columns of a thread, each kThreadsAcross apart
constexpr int kThreadsAcross = kTile / kEach;
constexpr int kThreads = kThreadsAcross * kThreadsAcross;

// One padding column keeps threads that store down a column out of one another's banks.
template <class A>
struct Tiles {
  A a[kDepth][kTile + 1], b[kDepth][kTile + 1];
};

template <class T, class Out>
__global__ void __launch_bounds__(kThreads)
    multiply(ProductShape shape, int64_t tiles_n, int64_t tiles, Operand<T> a, Operand<T> b,
             Result<Out> out) {
  using A = Accumulator<T>;
  const auto [batch, m, n, k] = shape;
  Tiles<A>& shared = block_shared<Tiles<A>>();
  const int64_t matrix = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t i0 = tile / tiles_n * kTile, j0 = tile % tiles_n * kTile;
  const int tx = static_cast<int>(threadIdx.x) % kThreadsAcross;
  const int ty = static_cast<int>(threadIdx.x) / kThreadsAcross;
  a.data += matrix * a.batch;
  b.data += matrix * b.batch;
  A sum[kEach][kEach] = {};
  for (int64_t p0 = 0; p0 < k; p0 += kDepth) {
    // Threads walk along the dimension that is contiguous in memory.
    for (int e = static_cast<int>(threadIdx.x); e < kTile * kDepth; e += kThreads) {
      const int ai = a.column == 1 ? e / kDepth : e % kTile;
      const int ap = a.column == 1 ? e % kDepth : e / kTile;
      const bool a_there = i0 + ai < m && p0 + ap < k;
      shared.a[ap][ai] =
          a_there ? static_cast<A>(a.data[(i0 + ai) * a.row + (p0 + ap) * a.column]) : A(0);
      const int bj = b.column == 1 ? e % kTile : e / kDepth;
      const int bp = b.column == 1 ? e / kTile : e % kDepth;
      const bool b_there = j0 + bj < n && p0 + bp < k;
      shared.b[bp][bj] =
          b_there ? static_cast<A>(b.data[(p0 + bp) * b.row + (j0 + bj) * b.column]) : A(0);
    }
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kDepth; ++p) {
      A left[kEach], right[kEach];
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        left[e] = shared.a[p][ty + e * kThreadsAcross];
        right[e] = shared.b[p][tx + e * kThreadsAcross];
      }
#pragma unroll
      for (int r = 0; r < kEach; ++r)
#pragma unroll
        for (int c = 0; c < kEach; ++c) sum[r][c] += left[r] * right[c];
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r)
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      const int64_t i = i0 + ty + r * kThreadsAcross, j = j0 + tx + c * kThreadsAcross;
      if (i >= m || j >= n) continue;
      out.finish((matrix * m + i) * n + j, j, sum[r][c]);
    }
}

enum class Route : uint8_t { cores, warps, warp_groups };

// Who multiplies.
template <class T>
Route route_of(const CudaContext& ctx, const ProductShape& s, const Operand<T>& a,
               const Operand<T>& b) {
  constexpr int kWarpGroups = 90;                    // the one capability that has wgmma
  constexpr int64_t kLeastTile = 128, kLeastK = 64;  // one whole tile, one step of the ring
  if (sizeof(T) != 2 || !is_aligned(a, s.m, s.k) || !is_aligned(b, s.k, s.n)) return Route::cores;
  const bool large = s.m >= kLeastTile && s.n >= kLeastTile && s.k >= kLeastK;
  return ctx.capability == kWarpGroups && large ? Route::warp_groups : Route::warps;
}

template <class T, class Out>
void product(const CudaContext& ctx, const ProductShape& shape, const Operand<T>& a,
             const Operand<T>& b, const Result<Out>& out) {
  const auto [batch, m, n, k] = shape;
  if (batch * m * n == 0) return;
  if constexpr (sizeof(T) == 2) {
    const Route route = route_of(ctx, shape, a, b);
    if (route == Route::warp_groups) return multiply_by_warp_groups(ctx, shape, a, b, out);
    if (route == Route::warps) return multiply_by_warps(ctx, shape, a, b, out);
  }
  const int64_t tiles_n = (n + kTile - 1) / kTile, tiles = (m + kTile - 1) / kTile * tiles_n;
  launch(multiply<T, Out>, {one_block_each(batch * tiles), kThreads}, ctx, shape, tiles_n, tiles, a,
         b, out);
}

// The last two dimensions of v, transposed or not.
template <class T>
Operand<T> operand(const ConstView& v, bool transposed) {
  const int64_t rows = v.shape[-2], cols = v.shape[-1];
  if (transposed) return {v.as<T>(), 1, cols, rows * cols};
  return {v.as<T>(), cols, 1, rows * cols};
}

}  // namespace

void matmul(const CudaContext& ctx, ConstView a, bool ta, ConstView b, bool tb, bool accumulate,
            View y) {
  const int64_t m = y.shape[-2], n = y.shape[-1], k = a.shape[ta ? -2 : -1];
  const int64_t batch = y.shape.rank() == 3 ? y.shape[0] : 1;
  if (multiply_by_library(ctx, {batch, m, n, k, ta, tb, accumulate, a, b, y})) return;
  for_float(a.dtype, "matmul", [&]<class T>() {
    const auto run = [&]<class Out>(Out* out) {
      product<T, Out>(ctx, {batch, m, n, k}, operand<T>(a, ta), operand<T>(b, tb),
                      {out, accumulate, nullptr, Activation::none, nullptr});
    };
    if (y.dtype == a.dtype) return run(y.as<T>());
    if constexpr (sizeof(T) == 2) return run(y.as<float>());
    fail_dtype("matmul", y.dtype, "the operands' dtype, or f32 over 16-bit operands");
  });
}

void linear_forward(const CudaContext& ctx, ConstView x, ConstView w, ConstView b, Activation act,
                    View y, View pre) {
  const int64_t k = x.cols(), n = w.shape[0];
  const LibraryProduct p{1, x.rows(), n, k, false, true, false, x, w, y, b, act, pre};
  if (multiply_by_library(ctx, p)) return;
  for_float(x.dtype, "linear", [&]<class T>() {
    product<T, T>(ctx, {1, x.rows(), n, k}, {x.as<T>(), k, 1, 0}, {w.as<T>(), 1, k, 0},
                  {y.as<T>(), false, b ? b.as<T>() : nullptr, act, pre ? pre.as<T>() : nullptr});
  });
}

}  // namespace pinion::kernels::cuda
