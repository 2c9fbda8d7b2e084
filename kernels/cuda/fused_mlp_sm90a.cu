// SPDX-License-Identifier: Apache-2.0
// The fused MLP on Hopper: a warp group multiplies 64 rows and 64 columns at a time by wgmma, both
// operands from shared memory as they lie there. Compiled for sm_90a alone.
#include "pinion/kernels/cuda/fused_mlp.cuh"
#include "pinion/kernels/cuda/hopper.cuh"

namespace pinion::kernels::cuda {
namespace {

// A matrix lies in panels of 64 columns, a panel as lines of 128 bytes, the chunks of each line
// swizzled as TMA would leave them.
struct WarpGroups {
  using Element = BFloat16;
  using T = Element;
  static constexpr int kThreads = 2 * kWarpGroup;
  static constexpr int kSide = kLineElements;  // rows and columns of a product
  static constexpr int kPad = kSide;
  static constexpr int kMostRows = 2 * kSide, kLeastRows = kSide;
  static constexpr int kSums = kSide / 2;  // of a thread

  struct Product {
    float sums[kSums];
  };

  int panel;  // elements
  int panels;
  __host__ __device__ WarpGroups(int width, int lines)
      : panel(lines * kSide), panels(width / kSide) {}
  __device__ __forceinline__ int at(int line, int column) const {
    const int in = column % kSide, chunk = in / 8 ^ line % 8;
    return column / kSide * panel + line * kSide + chunk * 8 + in % 8;
  }
  int64_t size() const { return int64_t{panel} * panels; }
  // The engine that multiplies sees what threads have stored only behind such a fence of theirs.
  __device__ __forceinline__ static void sync() {
    publish_tiles();
    __syncthreads();
  }

  // Rows i to i + 63 (of b, columns) at depth k, of lines along the depth or across it.
  template <bool kAcross>
  __device__ __forceinline__ uint64_t describe(const T* x, int i, int k) const {
    const T* start =
        kAcross ? x + i / kSide * panel + k * kSide : x + k / kSide * panel + i * kSide + k % kSide;
    return describe_tile(start, static_cast<uint32_t>(panel) * sizeof(T));
  }

  template <class F>
  __device__ __forceinline__ static void for_products(int rows, int columns, F f) {
    const int across = columns / kSide;
    // By a shuffle, so that the compiler knows that a warp goes through the loop together: in code
    // where lanes may part it serialises the products.
    const int group = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / kWarpGroup, 0);
    for (int p = group; p < rows / kSide * across; p += kThreads / kWarpGroup)
      f(p / across * kSide, p % across * kSide);
  }
  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ static void accumulate(Product& product, const T* a,
                                                    const WarpGroups& of_a, const T* b,
                                                    const WarpGroups& of_b, int i, int j, int,
                                                    int depth) {
    // A group is unrolled and waited for: between the first product and the wait, the compiler must
    // find no turn of a loop that could move the sums to other registers.
    for (int step = 0; step < depth; step += kSide) {
      begin_products(product.sums);
#pragma unroll
      for (int k = step; k < step + kSide; k += 16)
        multiply_tiles<T, kSide, kTransposedA, !kTransposedB>(
            product.sums, of_a.describe<kTransposedA>(a, i, k),
            of_b.describe<!kTransposedB>(b, j, k));
      commit_products();
      wait_products<0>(product.sums);
    }
  }

  struct Place {
    int row, column;
  };
  // Of sum `s` of a thread of the group.
  __device__ __forceinline__ static Place place_in_product(int thread, int s) {
    const int lane = thread % kWarp;
    return {thread / kWarp * 16 + lane / 4 + s / 2 % 2 * 8, s / 4 * 8 + lane % 4 * 2 + s % 2};
  }
  template <class F>
  __device__ __forceinline__ static void for_elements_of(Product& product, int i, int j, int, F f) {
    const int thread = static_cast<int>(threadIdx.x) % kWarpGroup;
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
      const Place p = place_in_product(thread, s);
      f(i + p.row, j + p.column, product.sums[s]);
    }
  }
  // Sums lie product by product, in each sum by sum, the threads beside one another.
  template <class F>
  __device__ __forceinline__ static void for_sums_of(Product& product, int i, int j, int n, F f) {
    const int first = (i * n + j * kSide) + static_cast<int>(threadIdx.x) % kWarpGroup;
#pragma unroll
    for (int s = 0; s < kSums; ++s) f(first + s * kWarpGroup, product.sums[s]);
  }
  __device__ __forceinline__ static Place place_of_sum(int at, int n) {
    const int in_rows = at % (kSide * n), in = in_rows % (kSide * kSide);
    const Place p = place_in_product(in % kWarpGroup, in / kWarpGroup);
    return {at / (kSide * n) * kSide + p.row, in_rows / (kSide * kSide) * kSide + p.column};
  }
};

}  // namespace

// Padding to 64 must not make more work than wgmma saves: hidden layers fill it, and so does the
// batch.
bool run_mlp_by_warp_groups(const CudaContext& ctx, const FusedMlpArgs& args, bool train) {
  if (args.x.dtype != DType::bf16 || args.layers < 2 || args.rows < WarpGroups::kSide) return false;
  for (int l = 1; l < args.layers; ++l)
    if (args.width[l] % WarpGroups::kSide != 0) return false;
  return run<WarpGroups>(ctx, args, train) == 0;
}

}  // namespace pinion::kernels::cuda
