// SPDX-License-Identifier: Apache-2.0
// Matrix products of few rows go another way than those of many, to the same bits.
#include <gmock/gmock.h>

#include "pinion/nn/init.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion {
namespace {

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
