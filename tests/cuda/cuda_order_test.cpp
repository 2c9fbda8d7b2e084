// SPDX-License-Identifier: Apache-2.0
// Orders of samples and batches on a CUDA device, a GPU or the simulator: they are the CPU's.
#include <gmock/gmock.h>

#include "pinion/kernels/kernels.h"
#include "pinion/kernels/permutation.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

TEST_F(CudaKernels, PermutationsAreTheCpus) {
  const struct {
    int64_t n, first, count;
  } cases[] = {{1, 0, 1},        {5, 0, 5},         {1000, 0, 1000},
               {1000, 700, 300}, {100003, 9, 2000}, {kernels::Permutation::kMost, 77, 1000}};
  for (const auto& c : cases) {
    Pair order(DType::i64, {c.count});
    on_both([&](auto& ctx, Device d) {
      kernels::permute(ctx, c.n, {1, 2, 3}, c.first, order.on_device(d));
    });
    order.expect_same();
  }
}

TEST_F(CudaKernels, GatheredBatchesAreTheCpus) {
  for (const DType from : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32,
                           DType::u8, DType::boolean})
    for (const DType to : kFloating)
      for (const int64_t n : {0, 3, 90}) {
        Pair x(from, {70, 7}, 1, 50), y(to, {n + 2, 9}, 1);
        std::vector<double> ids;
        for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<double>(i * 31 % 70));
        Pair index(DType::i64, {n}, ids);
        on_both([&](auto& ctx, Device d) {
          kernels::gather_cast(ctx, x.on_device(d), index.on_device(d), y.on_device(d));
        });
        y.expect_same();
      }
}

TEST_F(CudaKernels, AWrongIndexOfABatchIsReported) {
  const Tensor x = Tensor::zeros({5, 3}).to(kCuda),
               index = Tensor::of<int64_t>({1, 5}, {2}).to(kCuda);
  Tensor y({2, 3}, DType::f32, kCuda);
  try {
    on(kCuda, [&](auto& ctx) { kernels::gather_cast(ctx, x, index, y.mut()); });
    y.to(kCpu);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("gather_cast: index must lie in [0, 5), got 5"));
  }
}

}  // namespace
}  // namespace pinion::testing
