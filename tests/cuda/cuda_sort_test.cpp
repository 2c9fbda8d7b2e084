// SPDX-License-Identifier: Apache-2.0
// Sorting, running sums and the largest elements on a CUDA device, a GPU or the simulator, against
// the CPU.
#include "pinion/kernels/kernels.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

std::vector<double> numbers(int64_t n, int64_t range) {
  std::vector<double> v;
  for (int64_t i = 0; i < n; ++i) v.push_back(static_cast<double>(i * 7919 % 10007 % range - 3));
  return v;
}

TEST_F(CudaKernels, SortsAsTheCpu) {
  for (const DType t : {DType::i64, DType::i32})
    for (const int64_t n : {0, 1, 2, 31, 1000, 4097})
      for (const int64_t range : {5, 10007}) {
        Pair keys(t, {n}, numbers(n, range)), sorted(t, {n}), index(DType::i64, {n});
        on_both([&](auto& ctx, Device d) {
          kernels::sort_pairs(ctx, keys.on_device(d), sorted.on_device(d), index.on_device(d));
        });
        sorted.expect_same();
        index.expect_same();
      }
}

TEST_F(CudaKernels, RunningSumsAreTheCpus) {
  for (const int64_t n : {0, 1, 33, 5000}) {
    Pair x(DType::i64, {n}, numbers(n, 1000)), y(DType::i64, {n}, 1);
    on_both([&](auto& ctx, Device d) {
      kernels::exclusive_scan(ctx, x.on_device(d), y.on_device(d));
      kernels::exclusive_scan(ctx, x.on_device(d), x.on_device(d));
    });
    y.expect_same();
    x.expect_same();
  }
}

TEST_F(CudaKernels, TheLargestAreTheCpus) {
  for (const DType t : kFloating)
    for (const int64_t n : {1, 5, 32, 200, 257, 1500})
      for (const int64_t k : {int64_t{1}, int64_t{4}, std::min<int64_t>(n, 12)}) {
        if (k > n) continue;
        std::vector<double> values = numbers(3 * n, n > 500 ? 900 : 17);
        values[static_cast<size_t>(n / 2)] = std::nan("");
        values[static_cast<size_t>(3 * n - 1)] = std::nan("");
        values[static_cast<size_t>(n)] = -INFINITY;
        Pair x(t, {3, n}, values), y(t, {3, k}), index(DType::i64, {3, k});
        on_both([&](auto& ctx, Device d) {
          kernels::top_k(ctx, x.on_device(d), y.on_device(d), index.on_device(d));
        });
        y.expect_same();
        index.expect_same();
      }
}

TEST_F(CudaKernels, TheLargestOfNothingButMinusInfinityAreTheFirst) {
  Pair x(DType::f32, {1, 300}, std::vector<double>(300, -INFINITY)), y(DType::f32, {1, 5});
  Pair index(DType::i64, {1, 5});
  on_both([&](auto& ctx, Device d) {
    kernels::top_k(ctx, x.on_device(d), y.on_device(d), index.on_device(d));
  });
  index.expect_same();
  EXPECT_EQ(index.values(kCuda), (std::vector<double>{0, 1, 2, 3, 4}));
}

}  // namespace
}  // namespace pinion::testing
