// SPDX-License-Identifier: Apache-2.0
// Attention against the operations that it stands for, and what masks, dropout and blocks of
// queries must do.
#include "pinion/nn/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attention_testing.h"
#include "pinion/nn/init.h"
#include "pinion/tests/support/golden_file.h"

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

// Element i is ((factor i) mod modulus - shift) / scale: exact in float.
Tensor pattern(const Shape& shape, int factor, int modulus, int shift, float scale) {
  std::vector<float> v;
  for (int64_t i = 0; i < shape.numel(); ++i)
    v.push_back(static_cast<float>(i * factor % modulus - shift) / scale);
  return Tensor::of(v, shape);
}

// Weight (r, c) is ((a r + b c) mod modulus - shift) / 8.
Tensor weight_pattern(int64_t rows, int64_t a, int64_t b, int64_t modulus, int64_t shift) {
  std::vector<float> v;
  for (int64_t i = 0; i < rows * 4; ++i)
    v.push_back(static_cast<float>((i / 4 * a + i % 4 * b) % modulus - shift) / 8);
  return Tensor::of(v, {rows, 4});
}

nn::MultiHeadAttention patterned() {
  nn::MultiHeadAttention layer(4, 2);
  layer.load_state({{"in_proj_weight", weight_pattern(12, 7, 3, 11, 5)},
                    {"in_proj_bias", pattern({12}, 5, 7, 3, 4)},
                    {"out_proj.weight", weight_pattern(4, 5, 2, 9, 4)},
                    {"out_proj.bias", Tensor::of<float>({0.5, -0.25, 0, 1}, {4})}});
  return layer;
}

// The numbers of torch.nn.MultiheadAttention with these parameters, in double.
TEST(MultiHeadAttention, GivesPyTorchsNumbers) {
  nn::MultiHeadAttention layer = patterned();
  const Tensor x = pattern({1, 3, 4}, 3, 7, 3, 4), memory = pattern({1, 2, 4}, 4, 9, 4, 4);
  Tensor last = Tensor::full({1, 3}, 0, DType::boolean);
  last.mut().as<bool>()[2] = true;
  const std::pair<Tensor, std::vector<float>> cases[] = {
      {layer(x, {}, true),
       {0.46875, -0.6992188, 0.1875, 0.7695312, 0.4662691, -0.3783918, 0.0849664, 0.9903056,
        0.4783107, -0.3461063, 0.0920363, 1.0176193}},
      {layer.attend(x, memory),
       {0.4515087, -0.4415025, 0.0806826, 0.9376714, 0.4389533, -0.476066, 0.0776279, 0.9126085,
        0.4609153, -0.5564065, 0.1281701, 0.8608483}},
      {layer(x, last),
       {0.4756483, -0.3605545, 0.0900985, 1.0038957, 0.4662691, -0.3783918, 0.0849664, 0.9903056,
        0.4818332, -0.4278387, 0.1180496, 0.9583776}},
      {layer.attend(x, x, last),
       {0.4756483, -0.3605545, 0.0900985, 1.0038957, 0.4662691, -0.3783918, 0.0849664, 0.9903056,
        0.4818332, -0.4278387, 0.1180496, 0.9583776}}};
  for (const auto& [got, want] : cases)
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got.values<float>()[i], want[i], 1e-6);
}

TEST(MultiHeadAttention, DropsInTrainingOnlyAndCountsItsDraws) {
  manual_seed(3);
  nn::MultiHeadAttention layer(8, 2, 0.5);
  const Tensor x = noise({2, 6, 8}, 1);
  const std::vector<float> first = layer(x).values<float>(), second = layer(x).values<float>();
  EXPECT_NE(first, second);
  EXPECT_EQ(layer.counters()[0].name, "calls");
  layer.load_counters({{"calls", 1}});
  EXPECT_EQ(layer(x).values<float>(), second);
  layer.eval();
  EXPECT_EQ(layer(x).values<float>(), layer(x).values<float>());
  EXPECT_EQ(layer.counters()[0].count, 2u);
  EXPECT_EQ(nn::MultiHeadAttention(8, 2, 0, false).named_parameters().size(), 2u);
}

TEST(MultiHeadAttention, NamesWhatIsWrong) {
  using ::testing::HasSubstr;
  const auto text = [](auto f) { return error_text(ErrorKind::internal, f); };
  EXPECT_THAT(text([] { nn::MultiHeadAttention(7, 2); }),
              HasSubstr("a width that is a multiple of the heads, got width 7, heads 2"));
  EXPECT_THAT(text([] { nn::MultiHeadAttention(8, 2, 1); }), HasSubstr("dropout in [0, 1), got 1"));
  nn::MultiHeadAttention layer(8, 2);
  EXPECT_THAT(text([&] { layer(Tensor()); }), HasSubstr("a tensor for x, got an undefined one"));
  EXPECT_THAT(text([&] { layer(noise({2, 3, 4}, 1)); }), HasSubstr("x [B,T,8], got [2,3,4]"));
  EXPECT_THAT(text([&] {
                layer.attend(noise({2, 3, 8}, 1), noise({3, 8}, 1));
              }),
              HasSubstr("memory [B,T,8], got [3,8]"));
}

}  // namespace
}  // namespace pinion::testing
