// SPDX-License-Identifier: Apache-2.0
// Attention against the operations that it stands for, and what masks, dropout and blocks of
// queries must do.
#include <gtest/gtest.h>

#include <cmath>

#include "attention_testing.h"

namespace pinion::testing {
namespace {

using nn::AttentionOptions;

// [B,T,H,d] as a batch of B H matrices.
Tensor matrices(const Tensor& x) {
  return nn::reshape(nn::transpose(x, 1, 2), {x.size(0) * x.size(2), x.size(1), x.size(3)});
}

Tensor composed(const Problem& p, const Tensor& q, const Tensor& k, const Tensor& v) {
  Tensor hidden({p.batch * p.heads, p.queries, p.keys}, DType::boolean);
  bool* mask = hidden.mut().as<bool>();
  for (int64_t e = 0; e < hidden.numel(); ++e) {
    const int64_t j = e % p.keys, i = e / p.keys % p.queries;
    mask[e] = is_hidden(p, j) || (p.causal && j > i);
  }
  const Tensor scores = nn::bmm(matrices(q), matrices(k), false, true) *
                        (1 / std::sqrt(static_cast<double>(p.width)));
  const Tensor kept =
      nn::dropout(nn::softmax(nn::masked_fill(scores, hidden, -1e9)), p.dropout, {11, 5, 3});
  return nn::transpose(
      nn::reshape(nn::bmm(kept, matrices(v)), {p.batch, p.heads, p.queries, p.width}), 1, 2);
}

class AttentionProblem : public ::testing::TestWithParam<Problem> {};

TEST_P(AttentionProblem, EqualsItsParts) {
  const Tensors x = inputs_of(GetParam());
  const Tensors want =
      results_of(x, [&](const Tensors& in) { return composed(GetParam(), in[0], in[1], in[2]); });
  for (int isa = 0; isa <= int(best_isa()); ++isa) {
    const CpuContextGuard guard(1, Isa(isa));
    const Tensors got = results_of(GetParam(), x);
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_LT(distance(got[i], want[i]), 4e-6) << name_of(Isa(isa)) << " tensor " << i;
  }
}

TEST_P(AttentionProblem, BitsDoNotDependOnThreads) {
  const Tensors x = inputs_of(GetParam());
  Tensors first;
  for (const int threads : {1, 2, 4, 8}) {
    const CpuContextGuard guard(threads);
    const Tensors got = results_of(GetParam(), x);
    if (first.empty()) first = got;
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_EQ(bits(got[i]), bits(first[i])) << threads << " threads, tensor " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, AttentionProblem,
    ::testing::Values(Problem{1, 1, 1, 1, 1}, Problem{2, 5, 3, 3, 7},
                      Problem{2, 60, 60, 4, 64, true, 0.1, 0, 11}, Problem{2, 60, 98, 4, 64},
                      Problem{2, 98, 98, 4, 64, false, 0.1}, Problem{1, 300, 77, 2, 40, true, 0.3},
                      Problem{1, 500, 210, 2, 16, false, 0, 3, 3},
                      // rows that see no key, in the midst of a block and all of them
                      Problem{2, 70, 41, 2, 33, true, 0.2, 35, 2},
                      Problem{1, 9, 13, 2, 8, false, 0.4, 13, 0}));

// Of three queries the first two see no key; the second key is the only one that any sees.
TEST(Attention, AQueryThatSeesNoKeyGetsTheMeanAndMovesNothing) {
  AttentionOptions options;
  options.causal = true;
  options.key_padding_mask = Tensor::full({1, 4}, 1, DType::boolean);
  options.key_padding_mask.mut().as<bool>()[2] = false;
  Tensor q = noise({1, 3, 1, 2}, 1).requires_grad(true);
  Tensor k = noise({1, 4, 1, 2}, 2).requires_grad(true);
  Tensor v = Tensor::of<float>({1, 2, 3, 4, 50, 60, 7, 8}, {1, 4, 1, 2}).requires_grad(true);
  const Tensor y = nn::attention(q, k, v, options);
  const std::vector<float> expected{15.25f, 18.5f, 15.25f, 18.5f, 50, 60};
  EXPECT_EQ(y.values<float>(), expected);
  backward(y, Tensor::of<float>({1, 0, 2, 0, 4, 0}, {1, 3, 1, 2}));
  EXPECT_EQ(q.grad().values<float>(), std::vector<float>(6, 0));
  EXPECT_EQ(k.grad().values<float>(), std::vector<float>(8, 0));
  const std::vector<float> dv{0.75, 0, 0.75, 0, 4.75, 0, 0.75, 0};
  EXPECT_EQ(v.grad().values<float>(), dv);
}

TEST(Attention, TheFutureAndThePaddingHaveNoWeight) {
  AttentionOptions options;
  options.causal = true;
  options.key_padding_mask = Tensor::of<uint8_t>({0, 0, 1, 0, 0}, {1, 5});
  options.key_padding_mask = nn::cast(options.key_padding_mask, DType::boolean);
  const Tensor q = noise({1, 5, 2, 8}, 1), k = noise({1, 5, 2, 8}, 2), v = noise({1, 5, 2, 8}, 3);
  const auto rows = [&](int64_t token) {  // what the first four queries get without that key
    Tensor other_k = k.clone(), other_v = v.clone();
    for (int64_t c = 0; c < 16; ++c) {
      other_k.mut().as<float>()[token * 16 + c] = 30;
      other_v.mut().as<float>()[token * 16 + c] = -30;
    }
    std::vector<float> y = nn::attention(q, other_k, other_v, options).values<float>();
    return std::vector<float>(y.begin(), y.begin() + 4 * 16);
  };
  EXPECT_EQ(rows(2), rows(4));
  EXPECT_NE(rows(2), rows(3));
}

TEST(Attention, IsEmptyWhereThereIsNothing) {
  for (const Shape& s : {Shape{0, 3, 2, 4}, {2, 0, 2, 4}, {2, 3, 0, 4}}) {
    Tensor q = Tensor::zeros(s).requires_grad(true);
    Tensor k = Tensor::full({s[0], 5, s[2], 4}, 1).requires_grad(true);
    const Tensor y = nn::attention(q, k, k);
    EXPECT_EQ(y.shape(), s);
    backward(y, Tensor::zeros(s));
    EXPECT_EQ(k.grad().values<float>(), std::vector<float>(static_cast<size_t>(k.numel()), 0));
  }
}

}  // namespace
}  // namespace pinion::testing
