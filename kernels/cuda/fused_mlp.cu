// SPDX-License-Identifier: Apache-2.0
// The fused MLP on any device: 16-bit products run on the tensor cores by mma.sync, f32 ones on the
// ordinary cores. A warp computes 16 rows and 32 columns at a time.
#include "pinion/kernels/cuda/fused_mlp.cuh"
#include "pinion/kernels/cuda/mma.cuh"

namespace pinion::kernels::cuda {
namespace {

template <class T>
struct Warps {
  using Element = T;
  static constexpr int kThreads = 256, kWarps = kThreads / kWarp;
  static constexpr int kPad = 16;  // the depth of a product
  static constexpr int kMostRows = 64, kLeastRows = 16;
  static constexpr int kColumns = 32;  // of a product of 16 rows

  // Rows begin 16 bytes past a multiple of their width, so that eight of them lie in all banks.
  int stride, lines;
  __host__ __device__ Warps(int width, int n)
      : stride(width + 16 / static_cast<int>(sizeof(T))), lines(n) {}
  __device__ __forceinline__ int at(int line, int column) const { return line * stride + column; }
  int64_t size() const { return int64_t{lines} * stride; }
  __device__ __forceinline__ static void sync() { __syncthreads(); }

  struct Product {
    FragmentC c[kColumns / 8];
  };

  // f(row, column, element) for the lane's elements in columns below n.
  template <class F>
  __device__ __forceinline__ static void for_elements_of(Product& product, int i, int j, int n,
                                                         F f) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int part = 0; part < kColumns / 8; ++part)
      if (j + part * 8 < n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          f(i + g + e / 2 * 8, j + part * 8 + t * 2 + e % 2, product.c[part].v[e]);
  }

  // f(index, sum) for the lane's part of dW, which lies as fragments do: product by product, in
  // each element by element, the lanes beside one another. add_blocks() finds its way back.
  template <class F>
  __device__ __forceinline__ static void for_sums_of(Product& product, int i, int j, int n, F f) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int part = 0; part < kColumns / 8; ++part)
      if (j + part * 8 < n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          f(i * n + j * 16 + (part * 4 + e) * kWarp + lane, product.c[part].v[e]);
  }

  // Element (i, k) of a matrix that is stored as it is or as its transpose.
  template <bool kTransposed>
  __device__ __forceinline__ static T element(const T* x, int stride, int i, int k) {
    return kTransposed ? x[k * stride + i] : x[i * stride + k];
  }

  // product += a b over `depth`, a multiple of 16, of n columns.
  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ static void accumulate(Product& product, const T* a, const Warps& of_a,
                                                    const T* b, const Warps& of_b, int i, int j,
                                                    int n, int depth) {
    const int stride_a = of_a.stride, stride_b = of_b.stride;
    if constexpr (sizeof(T) == 2) {
      for (int k = 0; k < depth; k += 16) {
        const FragmentA left = fragment_a<kTransposedA>(a, stride_a, i, k);
#pragma unroll
        for (int part = 0; part < kColumns / 8; part += 2) {
          if (j + part * 8 >= n) break;
          const PairB right = fragments_b<kTransposedB>(b, stride_b, k, j + part * 8);
          multiply_add<T>(product.c[part], left, right.left);
          multiply_add<T>(product.c[part + 1], left, right.right);
        }
      }
    } else {
      const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
      for (int k = 0; k < depth; ++k) {
        const T upper = element<kTransposedA>(a, stride_a, i + g, k);
        const T lower = element<kTransposedA>(a, stride_a, i + g + 8, k);
#pragma unroll
        for (int part = 0; part < kColumns / 8; ++part) {
          if (j + part * 8 >= n) break;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const T right = element<kTransposedB>(b, stride_b, k, j + part * 8 + t * 2 + e);
            product.c[part].v[e] += upper * right;
            product.c[part].v[e + 2] += lower * right;
          }
        }
      }
    }
  }

  // f(i, j) for the products that cover [rows, columns], shared out among the warps.
  template <class F>
  __device__ __forceinline__ static void for_products(int rows, int columns, F f) {
    const int across = (columns + kColumns - 1) / kColumns;
    for (int p = static_cast<int>(threadIdx.x) / kWarp; p < rows / 16 * across; p += kWarps)
      f(p / across * 16, p % across * kColumns);
  }
  // Row and column of the sum that for_sums_of() has at this index.
  struct Place {
    int row, column;
  };
  __device__ __forceinline__ static Place place_of_sum(int at, int n) {
    const int rows = at / (16 * n), in_rows = at % (16 * n);
    const int lane = in_rows % kWarp, element = in_rows / kWarp % 4, part = in_rows / (4 * kWarp);
    return {rows * 16 + lane / 4 + element / 2 * 8, part * 8 + lane % 4 * 2 + element % 2};
  }
};

void run_mlp_on(const CudaContext& ctx, const FusedMlpArgs& args, bool train) {
  constexpr int kWarpGroups = 90;  // the one capability that has wgmma
  if (ctx.capability == kWarpGroups && run_mlp_by_warp_groups(ctx, args, train)) return;
  const auto run_as = [&]<class T>() {
    const int64_t bytes = run<Warps<T>>(ctx, args, train);
    PINION_REQUIRE(device, bytes == 0, "fused MLP on CUDA: expected layers that fit ", kMostShared,
                   " bytes of shared memory, got ", bytes, " bytes for ", args.layers,
                   " layers from ", args.width[0], " features; use nn::Mlp");
  };
  if (args.x.dtype == DType::bf16) return run_as.template operator()<BFloat16>();
  if (args.x.dtype == DType::f32) return run_as.template operator()<float>();
  fail_dtype("fused MLP", args.x.dtype, "f32 or bf16");
}

}  // namespace

void fused_mlp_train(const CudaContext& ctx, FusedMlpArgs args) { run_mlp_on(ctx, args, true); }

void fused_mlp_forward(const CudaContext& ctx, FusedMlpArgs args) {
  if (args.rows > 0) run_mlp_on(ctx, args, false);
}

}  // namespace pinion::kernels::cuda
