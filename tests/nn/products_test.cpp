// SPDX-License-Identifier: Apache-2.0
// Matrix products of few rows go through memory another way than those of many, to the same bits.
#include <gmock/gmock.h>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/init.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion {
namespace {

// So that sums are exact.
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

// Around every size at which the order of work changes.
TEST(FewRows, AreExact) {
  for (const int64_t m : {1, 2, 6, 7, 96, 97})
    for (const int64_t k : {17, 300})
      for (const int64_t n : {37, 530}) {
        SCOPED_TRACE(::testing::Message() << m << " x " << k << " x " << n);
        const Tensor a = whole_numbers(m, k, 3), b = whole_numbers(k, n, 5);
        const Tensor at = nn::transpose(a, 0, 1), bt = nn::transpose(b, 0, 1);
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

class Products : public testing::TestWithParam<DType> {};

// 100 rows are two blocks, and too few for oneDNN.
TEST_P(Products, OfARowDoNotDependOnHowManyThereAre) {
  constexpr int64_t kMany = 100, kColumns = 269,
                    kDepth = 1031;  // more than one depth of either way
  const NoGrad no_grad;
  manual_seed(1);
  const auto noise = [](const Shape& shape) {
    Tensor x(shape);
    nn::init::normal(x);
    return nn::cast(x, GetParam());
  };
  const Tensor x = noise({kMany, kDepth}), w = noise({kColumns, kDepth}), b = noise({kColumns});
  const Tensor by_columns = nn::transpose(w, 0, 1);
  const auto bits = [](const Tensor& y) { return nn::cast(y, DType::f64).values<double>(); };
  const std::vector<double> linear = bits(nn::linear(x, w, b, Activation::relu));
  const std::vector<double> product = bits(nn::matmul(x, by_columns));
  for (const int64_t few : {1, 2, 3, 4, 5, 6, 7, 9, 13, 48, 96}) {
    const auto count = static_cast<ptrdiff_t>(few * kColumns);
    const Tensor rows = x.rows(0, few).clone();
    EXPECT_TRUE(std::equal(linear.begin(), linear.begin() + count,
                           bits(nn::linear(rows, w, b, Activation::relu)).begin()))
        << few;
    EXPECT_TRUE(std::equal(product.begin(), product.begin() + count,
                           bits(nn::matmul(rows, by_columns)).begin()))
        << few;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Products, testing::Values(DType::f32, DType::f64, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace pinion
