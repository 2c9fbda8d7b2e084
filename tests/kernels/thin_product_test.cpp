// SPDX-License-Identifier: Apache-2.0
// Products of few rows and large matrices, which run through memory in other orders than square
// ones: around every size at which that order changes, with whole numbers, so that sums are exact.
#include <gtest/gtest.h>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/tensor.h"

namespace pinion {
namespace {

Tensor whole_numbers(int64_t rows, int64_t cols, int64_t seed) {
  std::vector<float> values;
  for (int64_t i = 0; i < rows * cols; ++i)
    values.push_back(static_cast<float>((i * i + seed * i + seed) % 7 - 3));
  return Tensor::of(values, {rows, cols});
}

// a[m,k] b[k,n]
std::vector<float> product(const Tensor& a, const Tensor& b) {
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  const std::vector<float> x = a.values<float>(), w = b.values<float>();
  std::vector<float> y(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t j = 0; j < n; ++j)
        y[static_cast<size_t>(i * n + j)] +=
            x[static_cast<size_t>(i * k + p)] * w[static_cast<size_t>(p * n + j)];
  return y;
}

Tensor transposed(const Tensor& a) {
  const std::vector<float> x = a.values<float>();
  std::vector<float> y;
  for (int64_t j = 0; j < a.size(1); ++j)
    for (int64_t i = 0; i < a.size(0); ++i) y.push_back(x[static_cast<size_t>(i * a.size(1) + j)]);
  return Tensor::of(y, {a.size(1), a.size(0)});
}

TEST(ThinProduct, IsExact) {
  for (const int64_t m : {1, 2, 6, 7, 96, 97})
    for (const int64_t k : {17, 300})
      for (const int64_t n : {37, 530}) {
        SCOPED_TRACE(::testing::Message() << m << " x " << k << " x " << n);
        const Tensor a = whole_numbers(m, k, 3), b = whole_numbers(k, n, 5);
        const Tensor at = transposed(a), bt = transposed(b);
        const std::vector<float> expected = product(a, b);
        for (const bool ta : {false, true})
          for (const bool tb : {false, true}) {
            Tensor y = Tensor::full({m, n}, 99);
            on({}, [&](auto& ctx) {
              kernels::matmul(ctx, ta ? at : a, ta, tb ? bt : b, tb, false, y.mut());
            });
            EXPECT_EQ(y.values<float>(), expected) << ta << tb;
          }
      }
}

}  // namespace
}  // namespace pinion
