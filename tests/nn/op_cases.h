// SPDX-License-Identifier: Apache-2.0
// One row or more for every function of nn/ops.h, nn/ops_attention.h and nn/ops_norm.h. The tests
// check each row's gradient, graph, golden values, rungs, threads and dtypes; the benchmarks time
// the same rows.
#pragma once

#include <vector>

#include "op_cases_image.h"

namespace pinion::testing {

inline std::vector<OpCase> math_cases() {
  using namespace nn;  // NOLINT: a table
  const Shape s{3, 7}, large{257, 1201};
  return {
      {"add", "operator+(a, b)", {real(s), real(s)}, [](Xs x) { return x[0] + x[1]; }},
      {"add_itself", "operator+(a, b)", {real(s)}, [](Xs x) { return x[0] + x[0]; }},
      {"subtract", "operator-(a, b)", {real(s), real(s)}, [](Xs x) { return x[0] - x[1]; }},
      {"multiply", "operator*(a, b)", {real(s), real(s)}, [](Xs x) { return x[0] * x[1]; }},
      {"multiply_itself", "operator*(a, b)", {real(s)}, [](Xs x) { return x[0] * x[0]; }},
      {"multiply_large",
       "operator*(a, b)",
       {real(large), real(large)},
       [](Xs x) { return x[0] * x[1]; }},
      {"divide", "operator/(a, b)", {real(s), nonzero(s)}, [](Xs x) { return x[0] / x[1]; }},
      {"divide_large",
       "operator/(a, b)",
       {real(large), nonzero(large)},
       [](Xs x) { return x[0] / x[1]; }},
      {"add_number", "operator+(x, shift)", {real(s)}, [](Xs x) { return x[0] + 0.75; }},
      {"subtract_number", "operator-(x, shift)", {real(s)}, [](Xs x) { return x[0] - 0.75; }},
      {"multiply_number", "operator*(x, scale)", {real(s)}, [](Xs x) { return x[0] * 1.5; }},
      {"number_multiply", "operator*(scale, x)", {real(s)}, [](Xs x) { return -0.5 * x[0]; }},
      {"divide_number", "operator/(x, divisor)", {real(s)}, [](Xs x) { return x[0] / 3; }},
      {"negate", "operator-(x)", {real(s)}, [](Xs x) { return -x[0]; }},
      {"affine", "affine(x, scale, shift)", {real(s)}, [](Xs x) { return affine(x[0], 2.5, -1); }},
      {"affine_large",
       "affine(x, scale, shift)",
       {real(large)},
       [](Xs x) { return affine(x[0], 2.5, -1); }},
      {"relu", "relu(x)", {nonzero(s)}, [](Xs x) { return relu(x[0]); }},
      {"relu_large", "relu(x)", {nonzero(large)}, [](Xs x) { return relu(x[0]); }},
      {"gelu_erf", "gelu(x, form)", {real(s)}, [](Xs x) { return gelu(x[0]); }},
      {"gelu_tanh", "gelu(x, form)", {real(s)}, [](Xs x) { return gelu(x[0], GeluForm::tanh); }},
      {"gelu_large", "gelu(x, form)", {real(large)}, [](Xs x) { return gelu(x[0]); }},
      {"sigmoid", "sigmoid(x)", {real(s)}, [](Xs x) { return sigmoid(x[0]); }},
      {"tanh", "tanh(x)", {real(s)}, [](Xs x) { return tanh(x[0]); }},
      {"exp", "exp(x)", {real(s)}, [](Xs x) { return exp(x[0]); }},
      {"exp_large", "exp(x)", {real(large)}, [](Xs x) { return exp(x[0]); }},
      {"log", "log(x)", {positive(s)}, [](Xs x) { return log(x[0]); }},
      {"masked_fill",
       "masked_fill(x, mask, value)",
       {real(s), mask(s)},
       [](Xs x) { return masked_fill(x[0], x[1], -3.5); }},
      {"masked_fill_large",
       "masked_fill(x, mask, value)",
       {real(large), mask(large)},
       [](Xs x) { return masked_fill(x[0], x[1], -3.5); }},
      {"cast_to_f64",
       "cast(x, dtype)",
       {real(s)},
       [](Xs x) { return cast(-x[0], DType::f64); },
       Gradient::stepped},
      {"cast_to_bf16",
       "cast(x, dtype)",
       {real(s)},
       [](Xs x) { return cast(-x[0], DType::bf16); },
       Gradient::stepped},
      {"cast_large",
       "cast(x, dtype)",
       {real(large)},
       [](Xs x) { return cast(cast(-x[0], DType::f16), DType::f32); },
       Gradient::stepped},
      {"dropout",
       "dropout(x, p, key)",
       {real(s)},
       [](Xs x) {
         return dropout(x[0], 0.4, {7, 1, 2});
       },
       Gradient::smooth,
       "PyTorch draws other numbers"},
      {"dropout_large",
       "dropout(x, p, key)",
       {real(large)},
       [](Xs x) {
         return dropout(x[0], 0.4, {7, 1, 2});
       },
       Gradient::smooth,
       "PyTorch draws other numbers"},
  };
}

inline std::vector<OpCase> matrix_cases() {
  using namespace nn;  // NOLINT: a table
  const char* const linear_function = "linear(x, w, b, activation)";
  const char* const bmm_function = "bmm(a, b, transpose_a, transpose_b)";
  return {
      {"matmul",
       "matmul(a, b)",
       {real({5, 7}), real({7, 3})},
       [](Xs x) { return matmul(x[0], x[1]); }},
      {"matmul_large",
       "matmul(a, b)",
       {real({131, 257}), real({257, 190})},
       [](Xs x) { return matmul(x[0], x[1]); }},
      {"bmm",
       bmm_function,
       {real({2, 5, 7}), real({2, 7, 3})},
       [](Xs x) { return bmm(x[0], x[1]); }},
      {"bmm_first_transposed",
       bmm_function,
       {real({2, 7, 5}), real({2, 7, 3})},
       [](Xs x) { return bmm(x[0], x[1], true, false); }},
      {"bmm_second_transposed",
       bmm_function,
       {real({2, 5, 7}), real({2, 3, 7})},
       [](Xs x) { return bmm(x[0], x[1], false, true); }},
      {"bmm_both_transposed",
       bmm_function,
       {real({2, 7, 5}), real({2, 3, 7})},
       [](Xs x) { return bmm(x[0], x[1], true, true); }},
      {"bmm_large",
       bmm_function,
       {real({9, 65, 70}), real({9, 33, 70})},
       [](Xs x) { return bmm(x[0], x[1], false, true); }},
      {"linear",
       linear_function,
       {real({4, 7}), real({5, 7}), real({5})},
       [](Xs x) { return linear(x[0], x[1], x[2]); }},
      {"linear_without_bias",
       linear_function,
       {real({4, 7}), real({5, 7})},
       [](Xs x) { return linear(x[0], x[1]); }},
      {"linear_3d",
       linear_function,
       {real({2, 3, 7}), real({5, 7}), real({5})},
       [](Xs x) { return linear(x[0], x[1], x[2]); }},
      {"linear_vector",
       linear_function,
       {real({7}), real({5, 7}), real({5})},
       [](Xs x) { return linear(x[0], x[1], x[2]); }},
      {"linear_relu",
       linear_function,
       {real({4, 7}), real({5, 7}), real({5})},
       [](Xs x) { return linear(x[0], x[1], x[2], Activation::relu); }},
      {"linear_gelu",
       linear_function,
       {real({4, 7}), real({5, 7}), real({5})},
       [](Xs x) { return linear(x[0], x[1], x[2], Activation::gelu); }},
      {"linear_gelu_tanh",
       linear_function,
       {real({4, 7}), real({5, 7}), real({5})},
       [](Xs x) { return linear(x[0], x[1], x[2], Activation::gelu_tanh); }},
      {"linear_gelu_without_bias",
       linear_function,
       {real({4, 7}), real({5, 7})},
       [](Xs x) { return linear(x[0], x[1], {}, Activation::gelu); }},
      {"linear_large",
       linear_function,
       {real({263, 130}), real({190, 130}), real({190})},
       [](Xs x) { return linear(x[0], x[1], x[2]); }},
      {"linear_gelu_large",
       linear_function,
       {real({263, 130}), real({190, 130}), real({190})},
       [](Xs x) { return linear(x[0], x[1], x[2], Activation::gelu); }},
      {"add_bias",
       "add_bias(x, b)",
       {real({2, 3, 7}), real({7})},
       [](Xs x) { return add_bias(x[0], x[1]); }},
      {"add_bias_large",
       "add_bias(x, b)",
       {real({1201, 257}), real({257})},
       [](Xs x) { return add_bias(x[0], x[1]); }},
  };
}

inline std::vector<OpCase> reduce_cases() {
  using namespace nn;  // NOLINT: a table
  const Shape s{3, 4, 5}, large{257, 1201};
  return {
      {"sum", "sum(x)", {real(s)}, [](Xs x) { return sum(x[0]); }},
      {"sum_first", "sum(x, dim)", {real(s)}, [](Xs x) { return sum(x[0], 0); }},
      {"sum_middle", "sum(x, dim)", {real(s)}, [](Xs x) { return sum(x[0], 1); }},
      {"sum_last", "sum(x, dim)", {real(s)}, [](Xs x) { return sum(x[0], -1); }},
      {"sum_large", "sum(x)", {positive({37, 1081})}, [](Xs x) { return sum(x[0]); }},
      {"mean_large", "mean(x)", {positive(large)}, [](Xs x) { return mean(x[0]); }},
      {"sum_first_large", "sum(x, dim)", {positive(large)}, [](Xs x) { return sum(x[0], 0); }},
      {"sum_last_large", "sum(x, dim)", {positive(large)}, [](Xs x) { return sum(x[0], 1); }},
      {"mean", "mean(x)", {real(s)}, [](Xs x) { return mean(x[0]); }},
      {"mean_middle", "mean(x, dim)", {real(s)}, [](Xs x) { return mean(x[0], 1); }},
      {"max_first", "max(x, dim)", {distinct(s)}, [](Xs x) { return max(x[0], 0); }},
      {"max_middle", "max(x, dim)", {distinct(s)}, [](Xs x) { return max(x[0], -2); }},
      {"max_last", "max(x, dim)", {distinct(s)}, [](Xs x) { return max(x[0], 2); }},
      {"max_large", "max(x, dim)", {real(large)}, [](Xs x) { return max(x[0], 1); }},
      {"argmax_middle",
       "argmax(x, dim)",
       {distinct(s)},
       [](Xs x) { return argmax(x[0], 1); },
       Gradient::none},
      {"argmax_last",
       "argmax(x, dim)",
       {distinct(s)},
       [](Xs x) { return argmax(x[0], -1); },
       Gradient::none},
  };
}

// Class 2 is the one that these rows ignore.
inline Tensor cross_entropy_of(Xs x, double smoothing, bool ignoring) {
  nn::CrossEntropyOptions options;
  options.label_smoothing = smoothing;
  if (ignoring) options.ignore_index = 2;
  if (x.size() == 3) options.weight = x[2];
  return nn::cross_entropy(x[0], x[1], options);
}

inline std::vector<OpCase> row_cases() {
  using namespace nn;  // NOLINT: a table
  const Shape s{3, 7}, large{301, 1013};
  const char* const norm = "layer_norm(x, gamma, beta, eps, form)";
  const char* const loss = "cross_entropy(logits, target, options)";
  return {
      {"softmax", "softmax(x)", {real(s)}, [](Xs x) { return softmax(x[0]); }},
      {"softmax_wide", "softmax(x)", {real({2, 3, 37})}, [](Xs x) { return softmax(x[0]); }},
      {"softmax_large", "softmax(x)", {real(large)}, [](Xs x) { return softmax(x[0]); }},
      {"log_softmax", "log_softmax(x)", {real(s)}, [](Xs x) { return log_softmax(x[0]); }},
      {"log_softmax_large",
       "log_softmax(x)",
       {real(large)},
       [](Xs x) { return log_softmax(x[0]); }},
      {"layer_norm",
       norm,
       {real(s), real({7}), real({7})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2]); }},
      {"layer_norm_3d",
       norm,
       {real({2, 3, 37}), real({37}), real({37})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2], 0.1); }},
      {"layer_norm_large",
       norm,
       {real(large), real({1013}), real({1013})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2]); }},
      {"cross_entropy",
       loss,
       {real({6, 7}), ids({6}, 7)},
       [](Xs x) { return cross_entropy(x[0], x[1]); }},
      {"cross_entropy_ignoring",
       loss,
       {real({6, 3}), ids({6}, 3)},
       [](Xs x) { return cross_entropy_of(x, 0, true); }},
      {"cross_entropy_smoothed",
       loss,
       {real({6, 7}), ids({6}, 7)},
       [](Xs x) { return cross_entropy_of(x, 0.1, false); }},
      {"cross_entropy_weighted",
       loss,
       {real({6, 7}), ids({6}, 7), weights({6})},
       [](Xs x) { return cross_entropy_of(x, 0, false); }},
      {"cross_entropy_everything",
       loss,
       {real({2, 5, 4}), ids({2, 5}, 4), weights({2, 5})},
       [](Xs x) { return cross_entropy_of(x, 0.2, true); }},
      {"cross_entropy_large",
       loss,
       {real(large), ids({301}, 1013), weights({301})},
       [](Xs x) { return cross_entropy_of(x, 0.1, true); }},
      {"mse_loss",
       "mse_loss(x, target)",
       {real(s), real(s)},
       [](Xs x) { return mse_loss(x[0], x[1]); }},
      {"mse_loss_large",
       "mse_loss(x, target)",
       {real(large), real(large)},
       [](Xs x) { return mse_loss(x[0], x[1]); }},
  };
}

inline std::vector<OpCase> shape_cases() {
  using namespace nn;  // NOLINT: a table
  const Shape s{2, 3, 4, 5};
  const char* const turn = "transpose(x, dim0, dim1)";
  const char* const join = "concat(parts, dim)";
  const char* const cut = "slice(x, dim, begin, end)";
  const char* const lookup = "embedding(weight, ids, padding)";
  return {
      {"reshape",
       "reshape(x, shape)",
       {real(s)},
       [](Xs x) {
         return reshape(x[0], {6, 20});
       }},
      {"transpose", turn, {real({3, 7})}, [](Xs x) { return transpose(x[0], 0, 1); }},
      {"transpose_heads", turn, {real(s)}, [](Xs x) { return transpose(x[0], 1, 2); }},
      {"transpose_far", turn, {real(s)}, [](Xs x) { return transpose(x[0], -1, 0); }},
      {"transpose_large", turn, {real({1201, 257})}, [](Xs x) { return transpose(x[0], 0, 1); }},
      {"concat_first",
       join,
       {real({2, 3}), real({1, 3}), real({4, 3})},
       [](Xs x) {
         return concat({x[0], x[1], x[2]}, 0);
       }},
      {"concat_middle",
       join,
       {real({2, 1, 3}), real({2, 4, 3})},
       [](Xs x) {
         return concat({x[0], x[1]}, 1);
       }},
      {"concat_six",
       join,
       {real({2, 3}), real({2, 1}), real({2, 2})},
       [](Xs x) {
         return concat({x[0], x[1], x[2], x[0], x[1], x[2]}, -1);
       }},
      {"concat_large",
       join,
       {real({257, 600}), real({257, 601})},
       [](Xs x) {
         return concat({x[0], x[1]}, 1);
       }},
      {"slice_first", cut, {real({5, 3})}, [](Xs x) { return slice(x[0], 0, 1, 4); }},
      {"slice_middle", cut, {real(s)}, [](Xs x) { return slice(x[0], 2, 1, 3); }},
      {"slice_last", cut, {real({3, 7})}, [](Xs x) { return slice(x[0], -1, 2, 7); }},
      {"slice_large", cut, {real({257, 1201})}, [](Xs x) { return slice(x[0], 1, 3, 1200); }},
      {"gather_first",
       "gather(x, dim, index)",
       {real({3, 7}), ids({5, 7}, 3)},
       [](Xs x) { return gather(x[0], 0, x[1]); }},
      {"gather_last",
       "gather(x, dim, index)",
       {real({3, 7}), ids({3, 9}, 7)},
       [](Xs x) { return gather(x[0], -1, x[1]); }},
      {"gather_large",
       "gather(x, dim, index)",
       {real({301, 1013}), ids({301, 1100}, 1013)},
       [](Xs x) { return gather(x[0], 1, x[1]); }},
      {"embedding",
       lookup,
       {real({6, 5}), ids({2, 4}, 6)},
       [](Xs x) { return embedding(x[0], x[1]); }},
      {"embedding_padding",
       lookup,
       {real({3, 5}), ids({2, 4}, 3)},
       [](Xs x) { return embedding(x[0], x[1], 2); },
       Gradient::stepped},
      {"embedding_large",
       lookup,
       {real({1000, 64}), ids({5001}, 1000)},
       [](Xs x) { return embedding(x[0], x[1]); }},
  };
}

// The last of four inputs, or of two with q, k and v in one, is the mask.
inline Tensor attention_of(Xs x, bool causal, double dropout = 0, double scale = 0) {
  nn::AttentionOptions options;
  if (x.size() % 2 == 0) options.key_padding_mask = x[x.size() - 1];
  options.causal = causal;
  options.dropout = dropout;
  options.scale = scale;
  options.key = {7, 3, 2};
  return x.size() < 3 ? nn::self_attention(x[0], options)
                      : nn::attention(x[0], x[1], x[2], options);
}

inline std::vector<OpCase> attention_cases() {
  const char* const separate = "attention(q, k, v, options)";
  const char* const packed = "self_attention(qkv, options)";
  const char* const other_numbers = "PyTorch draws other numbers";
  const Shape few{2, 3, 2, 5}, more{2, 7, 2, 5}, wide{2, 17, 2, 32}, wider{2, 33, 2, 32};
  const Shape large{2, 130, 3, 64};
  return {
      {"attention",
       separate,
       {real(few), real(more), real(more)},
       [](Xs x) { return attention_of(x, false); }},
      {"attention_causal",
       separate,
       {real(more), real(more), real(more)},
       [](Xs x) { return attention_of(x, true, 0, 0.3); }},
      {"attention_masked",
       separate,
       {real(few), real(more), real(more), mask({2, 7})},
       [](Xs x) { return attention_of(x, false); }},
      {"attention_causal_masked",
       separate,
       {real(more), real(few), real(few), mask({2, 3})},
       [](Xs x) { return attention_of(x, true); }},
      {"attention_dropped",
       separate,
       {real(few), real(more), real(more)},
       [](Xs x) { return attention_of(x, false, 0.3); },
       Gradient::smooth,
       other_numbers},
      {"attention_everything",
       separate,
       {real(wide), real(wider), real(wider), mask({2, 33})},
       [](Xs x) { return attention_of(x, true, 0.2, 0.1); },
       Gradient::smooth,
       other_numbers},
      {"attention_large",
       separate,
       {real(large), real(large), real(large), mask({2, 130})},
       [](Xs x) { return attention_of(x, true, 0.1); },
       Gradient::smooth,
       other_numbers},
      {"self_attention",
       packed,
       {real({2, 5, 3, 2, 4})},
       [](Xs x) { return attention_of(x, false); }},
      {"self_attention_everything",
       packed,
       {real({2, 18, 3, 1, 64}), mask({2, 18})},
       [](Xs x) { return attention_of(x, true, 0.1); },
       Gradient::smooth,
       other_numbers},
  };
}

// Both results, the sum with other gradients than the norm's alone.
inline Tensor residual_norm(Xs x, double p, LayerNormForm form) {
  const nn::ResidualNorm r =
      nn::residual_layer_norm(x[0], x[1], x[2], x[3], p, {7, 1, 2}, 0.1, form);
  return r.normalised + r.sum * r.sum;
}

inline std::vector<OpCase> norm_cases() {
  using namespace nn;  // NOLINT: a table
  const Shape s{2, 3, 37}, large{301, 1013};
  const char* const norm = "layer_norm(x, gamma, beta, eps, form)";
  const char* const conditional =
      "conditional_layer_norm(x, gamma, beta, delta_gamma, delta_beta, eps, form)";
  const char* const residual = "residual_layer_norm(x, branch, gamma, beta, p, key, eps, form)";
  const char* const own = "PyTorch draws other numbers";
  const auto condition = [](Xs x) {
    return conditional_layer_norm(x[0], x[1], x[2], x[3], x[4], 0.01);
  };
  return {
      {"layer_norm_in_its_form",
       norm,
       {real(s), real({37}), real({37})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2], 0.1, LayerNormForm::torch); }},
      {"layer_norm_unbiased",
       norm,
       {real(s), real({37}), real({37})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2], 0.1, LayerNormForm::unbiased_std); }},
      {"layer_norm_unbiased_two",
       norm,
       {distinct({5, 2}), real({2}), real({2})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2], 0.5, LayerNormForm::unbiased_std); }},
      {"layer_norm_unbiased_large",
       norm,
       {real(large), real({1013}), real({1013})},
       [](Xs x) { return layer_norm(x[0], x[1], x[2], 1e-6, LayerNormForm::unbiased_std); }},
      {"conditional_layer_norm",
       conditional,
       {real(s), real({37}), real({37}), real(s), real(s)},
       condition},
      {"conditional_layer_norm_torch",
       conditional,
       {real({5, 8}), real({8}), real({8}), real({5, 8}), real({5, 8})},
       [](Xs x) {
         return conditional_layer_norm(x[0], x[1], x[2], x[3], x[4], 1e-5, LayerNormForm::torch);
       }},
      {"conditional_layer_norm_large",
       conditional,
       {real(large), real({1013}), real({1013}), real(large), real(large)},
       condition},
      {"residual_layer_norm",
       residual,
       {real(s), real(s), real({37}), real({37})},
       [](Xs x) { return residual_norm(x, 0.4, LayerNormForm::torch); },
       Gradient::smooth,
       own},
      {"residual_layer_norm_unbiased",
       residual,
       {real({5, 8}), real({5, 8}), real({8}), real({8})},
       [](Xs x) { return residual_norm(x, 0, LayerNormForm::unbiased_std); },
       Gradient::smooth,
       "the sum of two results"},
      {"residual_layer_norm_large",
       residual,
       {real(large), real(large), real({1013}), real({1013})},
       [](Xs x) { return residual_norm(x, 0.4, LayerNormForm::unbiased_std); },
       Gradient::smooth,
       own},
  };
}

inline const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> all = [] {
    std::vector<OpCase> rows;
    for (const auto& part : {math_cases(), matrix_cases(), reduce_cases(), row_cases(),
                             shape_cases(), attention_cases(), norm_cases(), image_cases()})
      rows.insert(rows.end(), part.begin(), part.end());
    return rows;
  }();
  return all;
}

}  // namespace pinion::testing
