// SPDX-License-Identifier: Apache-2.0
// Wrong arguments to every function of nn/ops.h: each call throws an Error whose text names the
// function, what it expected and what it got.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "bad_input_image.h"
#include "op_harness.h"

namespace pinion::testing {
namespace {

std::vector<BadCall> math_calls() {
  using namespace nn;  // NOLINT: a table
  return {
      {"operator+(a, b)", "add: expected a tensor for a", [] { return kNone + f32({2}); }},
      {"operator+(a, b)", "add: expected a tensor for b", [] { return f32({2}) + kNone; }},
      {"operator+(a, b)", "add: expected two tensors of one shape, got [2] and [3]",
       [] { return f32({2}) + f32({3}); }},
      {"operator+(a, b)", "add: expected two tensors of one shape, got [2,1] and [2]",
       [] {
         return f32({2, 1}) + f32({2});
       }},
      {"operator+(a, b)", "add: expected a of a floating type, got i64",
       [] { return i64({2}) + i64({2}); }},
      {"operator+(a, b)", "add: expected b of type f32, got f64",
       [] { return f32({2}) + f64({2}); }},
      {"operator-(a, b)", "subtract: expected two tensors of one shape",
       [] {
         return f32({2}) - f32({2, 2});
       }},
      {"operator-(a, b)", "subtract: expected b of type f32", [] { return f32({2}) - i64({2}); }},
      {"operator*(a, b)", "multiply: expected two tensors of one shape",
       [] { return f32({}) * f32({1}); }},
      {"operator*(a, b)", "multiply: expected a of a floating type, got bool",
       [] { return flags({2}) * flags({2}); }},
      {"operator/(a, b)", "divide: expected two tensors of one shape",
       [] {
         return f32({4}) / f32({2, 2});
       }},
      {"operator/(a, b)", "divide: expected b of type f64", [] { return f64({2}) / f32({2}); }},
      {"operator+(x, shift)", "affine: expected a tensor for x", [] { return kNone + 1.0; }},
      {"operator-(x, shift)", "affine: expected x of a floating type",
       [] { return i64({2}) - 1.0; }},
      {"operator*(x, scale)", "affine: expected a tensor for x", [] { return kNone * 2.0; }},
      {"operator*(scale, x)", "affine: expected x of a floating type",
       [] { return 2.0 * flags({2}); }},
      {"operator/(x, divisor)", "affine: expected x of a floating type",
       [] { return i64({2}) / 2.0; }},
      {"operator-(x)", "affine: expected a tensor for x", [] { return -kNone; }},
      {"relu(x)", "relu: expected a tensor for x", [] { return relu(kNone); }},
      {"relu(x)", "relu: expected x of a floating type, got i64", [] { return relu(i64({2})); }},
      {"gelu(x, form)", "gelu: expected x of a floating type", [] { return gelu(i64({2})); }},
      {"sigmoid(x)", "sigmoid: expected x of a floating type", [] { return sigmoid(i64({2})); }},
      {"tanh(x)", "tanh: expected x of a floating type", [] { return nn::tanh(i64({2})); }},
      {"exp(x)", "exp: expected x of a floating type", [] { return nn::exp(i64({2})); }},
      {"log(x)", "log: expected x of a floating type", [] { return nn::log(i64({2})); }},
      {"affine(x, scale, shift)", "affine: expected a tensor for x",
       [] { return affine(kNone, 1, 2); }},
      {"masked_fill(x, mask, value)", "masked_fill: expected mask [2], got [3]",
       [] { return masked_fill(f32({2}), flags({3}), 0); }},
      {"masked_fill(x, mask, value)", "masked_fill: expected mask of type bool, got f32",
       [] { return masked_fill(f32({2}), f32({2}), 0); }},
      {"masked_fill(x, mask, value)", "masked_fill: expected a tensor for mask",
       [] { return masked_fill(f32({2}), kNone, 0); }},
      {"cast(x, dtype)", "cast: expected a tensor for x", [] { return cast(kNone, DType::f32); }},
      {"cast(x, dtype)", "cast: expected a dtype, got 77",
       [] { return cast(f32({2}), static_cast<DType>(77)); }},
      {"dropout(x, p, key)", "dropout: expected x of a floating type",
       [] { return dropout(i64({2}), 0.5, {}); }},
      {"dropout(x, p, key)", "dropout: expected p in [0, 1), got 1",
       [] { return dropout(f32({2}), 1, {}); }},
      {"dropout(x, p, key)", "dropout: expected p in [0, 1), got -0.1",
       [] { return dropout(f32({2}), -0.1, {}); }},
      {"dropout(x, p, key)", "dropout: expected p in [0, 1)",
       [] { return dropout(f32({2}), kNan, {}); }},
  };
}

std::vector<BadCall> matrix_calls() {
  using namespace nn;  // NOLINT: a table
  const char* const linear_function = "linear(x, w, b, activation)";
  const char* const bmm_function = "bmm(a, b, transpose_a, transpose_b)";
  return {
      {"matmul(a, b)", "matmul: a [2,3] does not fit b [4,5]",
       [] {
         return matmul(f32({2, 3}), f32({4, 5}));
       }},
      {"matmul(a, b)", "matmul: expected a of 2 dimensions, got [3]",
       [] {
         return matmul(f32({3}), f32({3, 5}));
       }},
      {"matmul(a, b)", "matmul: expected b of 2 dimensions, got [1,3,5]",
       [] {
         return matmul(f32({2, 3}), f32({1, 3, 5}));
       }},
      {"matmul(a, b)", "matmul: expected b of type f32, got f64",
       [] {
         return matmul(f32({2, 3}), f64({3, 5}));
       }},
      {"matmul(a, b)", "matmul: expected a of a floating type, got i64",
       [] {
         return matmul(i64({2, 3}), i64({3, 5}));
       }},
      {"matmul(a, b)", "matmul: expected a tensor for b",
       [] {
         return matmul(f32({2, 3}), kNone);
       }},
      {bmm_function, "bmm: a [2,3,4] does not fit b [2,3,4]",
       [] {
         return bmm(f32({2, 3, 4}), f32({2, 3, 4}));
       }},
      {bmm_function, "bmm: a [2,3,4] (transposed) does not fit b [2,4,5]",
       [] {
         return bmm(f32({2, 3, 4}), f32({2, 4, 5}), true);
       }},
      {bmm_function, "bmm: a [2,3,4] does not fit b [2,4,5] (transposed)",
       [] {
         return bmm(f32({2, 3, 4}), f32({2, 4, 5}), false, true);
       }},
      {bmm_function, "bmm: a [2,3,4] does not fit b [3,4,5]",
       [] {
         return bmm(f32({2, 3, 4}), f32({3, 4, 5}));
       }},
      {bmm_function, "bmm: expected a of 3 dimensions, got [3,4]",
       [] {
         return bmm(f32({3, 4}), f32({4, 5}));
       }},
      {bmm_function, "bmm: expected a tensor for a",
       [] {
         return bmm(kNone, f32({1, 1, 1}));
       }},
      {linear_function, "linear: x [2,3] does not fit weight [5,4]",
       [] {
         return linear(f32({2, 3}), f32({5, 4}));
       }},
      {linear_function, "linear: x [] does not fit weight [5,4]",
       [] {
         return linear(f32({}), f32({5, 4}));
       }},
      {linear_function, "linear: x [2,3] does not fit weight [3]",
       [] {
         return linear(f32({2, 3}), f32({3}));
       }},
      {linear_function, "linear: bias [4] does not fit weight [5,3]",
       [] {
         return linear(f32({2, 3}), f32({5, 3}), f32({4}));
       }},
      {linear_function, "linear: bias [5,1] does not fit weight [5,3]",
       [] {
         return linear(f32({2, 3}), f32({5, 3}), f32({5, 1}));
       }},
      {linear_function, "linear: expected weight of type f32, got f64",
       [] {
         return linear(f32({2, 3}), f64({5, 3}));
       }},
      {linear_function, "linear: expected bias of type f32, got i64",
       [] {
         return linear(f32({2, 3}), f32({5, 3}), i64({5}));
       }},
      {linear_function, "linear: expected a tensor for weight",
       [] {
         return linear(f32({2, 3}), kNone);
       }},
      {linear_function, "linear: expected an activation, got 9",
       [] {
         return linear(f32({2, 3}), f32({5, 3}), {}, static_cast<Activation>(9));
       }},
      {"add_bias(x, b)", "add_bias: bias [3] does not fit x [3,4]",
       [] {
         return add_bias(f32({3, 4}), f32({3}));
       }},
      {"add_bias(x, b)", "add_bias: bias [1] does not fit x []",
       [] { return add_bias(f32({}), f32({1})); }},
      {"add_bias(x, b)", "add_bias: expected bias of type f32, got f64",
       [] {
         return add_bias(f32({3, 4}), f64({4}));
       }},
  };
}

std::vector<BadCall> reduce_calls() {
  using namespace nn;  // NOLINT: a table
  return {
      {"sum(x)", "sum: expected x of a floating type, got i64", [] { return sum(i64({2})); }},
      {"sum(x)", "sum: expected a tensor for x", [] { return sum(kNone); }},
      {"sum(x, dim)", "sum: expected a dimension of [2,3], got 2",
       [] {
         return sum(f32({2, 3}), 2);
       }},
      {"sum(x, dim)", "sum: expected a dimension of [2,3], got -3",
       [] {
         return sum(f32({2, 3}), -3);
       }},
      {"sum(x, dim)", "sum: expected a dimension of [], got 0", [] { return sum(f32({}), 0); }},
      {"mean(x)", "mean: expected x of a floating type", [] { return mean(flags({2})); }},
      {"mean(x, dim)", "mean: expected a dimension of [2], got 1",
       [] { return mean(f32({2}), 1); }},
      {"max(x, dim)", "max: expected a dimension of [2], got 5", [] { return max(f32({2}), 5); }},
      {"max(x, dim)", "max: expected x of a floating type", [] { return max(i64({2}), 0); }},
      {"max(x, dim)", "max: expected at least one element in dimension 1, got [2,0]",
       [] {
         return max(f32({2, 0}), 1);
       }},
      {"argmax(x, dim)", "argmax: expected a dimension of [2], got -2",
       [] { return argmax(f32({2}), -2); }},
      {"argmax(x, dim)", "argmax: expected at least one element in dimension 0, got [0]",
       [] { return argmax(f32({0}), -1); }},
  };
}

Tensor loss_with(double smoothing, const Tensor& weight) {
  nn::CrossEntropyOptions options;
  options.label_smoothing = smoothing;
  options.weight = weight;
  return nn::cross_entropy(f32({2, 3}), i64({2}), options);
}

std::vector<BadCall> row_calls() {
  using namespace nn;  // NOLINT: a table
  const char* const norm = "layer_norm(x, gamma, beta, eps, form)";
  const char* const residual = "residual_layer_norm(x, branch, gamma, beta, p, key, eps, form)";
  const char* const loss = "cross_entropy(logits, target, options)";
  return {
      {"softmax(x)", "softmax: expected x of at least one dimension, got []",
       [] { return softmax(f32({})); }},
      {"softmax(x)", "softmax: expected x of a floating type", [] { return softmax(i64({2})); }},
      {"log_softmax(x)", "log_softmax: expected x of at least one dimension, got []",
       [] { return log_softmax(f32({})); }},
      {"log_softmax(x)", "log_softmax: expected a tensor for x", [] { return log_softmax(kNone); }},
      {norm, "layer_norm: expected gamma [4], got [3]",
       [] {
         return layer_norm(f32({3, 4}), f32({3}), f32({4}));
       }},
      {norm, "layer_norm: expected beta [4], got [4,1]",
       [] {
         return layer_norm(f32({3, 4}), f32({4}), f32({4, 1}));
       }},
      {norm, "layer_norm: expected gamma of type f32, got f64",
       [] {
         return layer_norm(f32({3, 4}), f64({4}), f32({4}));
       }},
      {norm, "layer_norm: expected a tensor for beta",
       [] {
         return layer_norm(f32({3, 4}), f32({4}), kNone);
       }},
      {norm, "layer_norm: expected x of at least one dimension",
       [] { return layer_norm(f32({}), f32({1}), f32({1})); }},
      {residual, "residual_layer_norm: expected branch [3,4], got [4,3]",
       [] {
         return residual_layer_norm(f32({3, 4}), f32({4, 3}), f32({4}), f32({4})).sum;
       }},
      {residual, "residual_layer_norm: expected branch of type f32, got f64",
       [] {
         return residual_layer_norm(f32({3, 4}), f64({3, 4}), f32({4}), f32({4})).sum;
       }},
      {residual, "residual_layer_norm: expected p in [0, 1), got 1",
       [] {
         return residual_layer_norm(f32({3, 4}), f32({3, 4}), f32({4}), f32({4}), 1).sum;
       }},
      {residual, "residual_layer_norm: expected gamma [4], got [3]",
       [] {
         return residual_layer_norm(f32({3, 4}), f32({3, 4}), f32({3}), f32({4})).sum;
       }},
      {norm, "layer_norm: expected eps of at least 0, got -1",
       [] {
         return layer_norm(f32({3, 4}), f32({4}), f32({4}), -1);
       }},
      {loss, "cross_entropy: target [3] does not fit logits [2,3]",
       [] {
         return cross_entropy(f32({2, 3}), i64({3}));
       }},
      {loss, "cross_entropy: target [2,3] does not fit logits [2,3]",
       [] {
         return cross_entropy(f32({2, 3}), i64({2, 3}));
       }},
      {loss, "cross_entropy: target [] does not fit logits []",
       [] { return cross_entropy(f32({}), i64({})); }},
      {loss, "cross_entropy: expected target of type i64, got f32",
       [] {
         return cross_entropy(f32({2, 3}), f32({2}));
       }},
      {loss, "cross_entropy: expected logits of a floating type, got i64",
       [] {
         return cross_entropy(i64({2, 3}), i64({2}));
       }},
      {loss, "cross_entropy: expected targets in [0, 3) or -100, got 3 at position 0",
       [] {
         return cross_entropy(f32({1, 3}), id(3));
       }},
      {loss, "cross_entropy: expected targets in [0, 3) or -100, got -1 at position 0",
       [] {
         return cross_entropy(f32({1, 3}), id(-1));
       }},
      {loss, "cross_entropy: expected label_smoothing in [0, 1], got 1.5",
       [] { return loss_with(1.5, {}); }},
      {loss, "cross_entropy: expected label_smoothing in [0, 1]",
       [] { return loss_with(kNan, {}); }},
      {loss, "cross_entropy: expected weight [2], got [3]", [] { return loss_with(0, f32({3})); }},
      {loss, "cross_entropy: expected weight of type f32, got f64",
       [] { return loss_with(0, f64({2})); }},
      {"mse_loss(x, target)", "mse_loss: expected target [2], got [2,1]",
       [] {
         return mse_loss(f32({2}), f32({2, 1}));
       }},
      {"mse_loss(x, target)", "mse_loss: expected target of type f32, got i64",
       [] { return mse_loss(f32({2}), i64({2})); }},
  };
}

std::vector<BadCall> shape_calls() {
  using namespace nn;  // NOLINT: a table
  const char* const turn = "transpose(x, dim0, dim1)";
  const char* const join = "concat(parts, dim)";
  const char* const cut = "slice(x, dim, begin, end)";
  const char* const take = "gather(x, dim, index)";
  const char* const lookup = "embedding(weight, ids, padding)";
  return {
      {"reshape(x, shape)", "reshape: expected a shape of 6 elements for x [2,3], got [5]",
       [] {
         return reshape(f32({2, 3}), {5});
       }},
      {"reshape(x, shape)", "reshape: expected a tensor for x", [] { return reshape(kNone, {1}); }},
      {turn, "transpose: expected a dimension of [2,3], got 2",
       [] {
         return transpose(f32({2, 3}), 0, 2);
       }},
      {turn, "transpose: expected a dimension of [2,3], got -3",
       [] {
         return transpose(f32({2, 3}), -3, 0);
       }},
      {turn, "transpose: expected a tensor for x", [] { return transpose(kNone, 0, 1); }},
      {join, "concat: expected at least one part, got none", [] { return concat({}, 0); }},
      {join, "concat: expected parts equal but for dimension 1, got [2,3] and [3,3]",
       [] {
         return concat({f32({2, 3}), f32({3, 3})}, 1);
       }},
      {join, "concat: expected parts equal but for dimension 0, got [2,3] and [2]",
       [] {
         return concat({f32({2, 3}), f32({2})}, 0);
       }},
      {join, "concat: expected every part of type f32, got f64",
       [] {
         return concat({f32({2}), f64({2})}, 0);
       }},
      {join, "concat: expected a tensor for every part",
       [] {
         return concat({f32({2}), kNone}, 0);
       }},
      {join, "concat: expected a dimension of [], got 0", [] { return concat({f32({})}, 0); }},
      {cut, "slice: expected a range within [0, 3] of dimension 1, got [1, 4)",
       [] {
         return slice(f32({2, 3}), 1, 1, 4);
       }},
      {cut, "slice: expected a range within [0, 2] of dimension 0, got [-1, 1)",
       [] {
         return slice(f32({2, 3}), 0, -1, 1);
       }},
      {cut, "slice: expected a range within [0, 3] of dimension 1, got [2, 1)",
       [] {
         return slice(f32({2, 3}), -1, 2, 1);
       }},
      {cut, "slice: expected a dimension of [2,3], got 2",
       [] {
         return slice(f32({2, 3}), 2, 0, 1);
       }},
      {take, "gather: expected an index equal to x [2,3] but for dimension 1, got [3,3]",
       [] {
         return gather(f32({2, 3}), 1, i64({3, 3}));
       }},
      {take, "gather: expected an index equal to x [2,3] but for dimension 1, got [2]",
       [] {
         return gather(f32({2, 3}), 1, i64({2}));
       }},
      {take, "gather: expected index of type i64, got f32",
       [] {
         return gather(f32({2, 3}), 1, f32({2, 3}));
       }},
      {take, "gather: index must lie in [0, 3), got 3", [] { return gather(f32({3}), 0, id(3)); }},
      {take, "gather: index must lie in [0, 3), got -1",
       [] { return gather(f32({3}), 0, id(-1)); }},
      {take, "gather: expected a dimension of [2], got 1",
       [] { return gather(f32({2}), 1, i64({2})); }},
      {lookup, "embedding: expected weight of 2 dimensions, got [6]",
       [] { return embedding(f32({6}), i64({2})); }},
      {lookup, "embedding: expected ids of type i64, got f32",
       [] {
         return embedding(f32({6, 2}), f32({2}));
       }},
      {lookup, "embedding: index must lie in [0, 6), got 6",
       [] {
         return embedding(f32({6, 2}), id(6));
       }},
      {lookup, "embedding: index must lie in [0, 6), got -9",
       [] {
         return embedding(f32({6, 2}), id(-9));
       }},
      {lookup, "embedding: expected ids of at most 5 dimensions, got [1,1,1,1,1,1]",
       [] {
         return embedding(f32({6, 2}), i64({1, 1, 1, 1, 1, 1}));
       }},
      {lookup, "embedding: expected padding in [-1, 6), got 6",
       [] {
         return embedding(f32({6, 2}), i64({2}), 6);
       }},
  };
}

nn::AttentionOptions attention_options(double dropout, double scale, const Tensor& mask = {}) {
  nn::AttentionOptions options;
  options.dropout = dropout;
  options.scale = scale;
  options.key_padding_mask = mask;
  return options;
}

std::vector<BadCall> attention_calls() {
  using namespace nn;  // NOLINT: a table
  const char* const separate = "attention(q, k, v, options)";
  const char* const packed = "self_attention(qkv, options)";
  return {
      {separate, "attention: expected a tensor for k",
       [] {
         return attention(f32({1, 2, 3, 4}), kNone, f32({1, 2, 3, 4}));
       }},
      {separate, "attention: expected q of a floating type, got i64",
       [] {
         return attention(i64({1, 2, 3, 4}), i64({1, 2, 3, 4}), i64({1, 2, 3, 4}));
       }},
      {separate, "attention: expected v of type f32, got f64",
       [] {
         return attention(f32({1, 2, 3, 4}), f32({1, 2, 3, 4}), f64({1, 2, 3, 4}));
       }},
      {separate, "attention: expected q of 4 dimensions, got [2,3,4]",
       [] {
         return attention(f32({2, 3, 4}), f32({1, 2, 3, 4}), f32({1, 2, 3, 4}));
       }},
      {separate, "attention: expected k of 4 dimensions, got [2,3,4]",
       [] {
         return attention(f32({1, 2, 3, 4}), f32({2, 3, 4}), f32({1, 2, 3, 4}));
       }},
      {separate, "attention: expected k [1,7,3,4], got [1,7,2,4]",
       [] {
         return attention(f32({1, 2, 3, 4}), f32({1, 7, 2, 4}), f32({1, 7, 2, 4}));
       }},
      {separate, "attention: expected v [1,7,3,4], got [1,6,3,4]",
       [] {
         return attention(f32({1, 2, 3, 4}), f32({1, 7, 3, 4}), f32({1, 6, 3, 4}));
       }},
      {separate, "attention: expected at least one key and one feature, got 0 keys of 4 features",
       [] {
         return attention(f32({1, 2, 3, 4}), f32({1, 0, 3, 4}), f32({1, 0, 3, 4}));
       }},
      {packed, "self_attention: expected qkv of 5 dimensions, got [2,5,12]",
       [] {
         return self_attention(f32({2, 5, 12}));
       }},
      {packed, "self_attention: expected qkv [B,T,3,H,d], got [2,5,2,3,4]",
       [] {
         return self_attention(f32({2, 5, 2, 3, 4}));
       }},
      {packed, "self_attention: expected dropout in [0, 1), got 1",
       [] {
         return self_attention(f32({2, 5, 3, 3, 4}), attention_options(1, 0));
       }},
      {packed, "self_attention: expected dropout in [0, 1)",
       [] {
         return self_attention(f32({2, 5, 3, 3, 4}), attention_options(kNan, 0));
       }},
      {packed, "self_attention: expected a finite scale above 0, or 0 for 1 / sqrt(d), got -1",
       [] {
         return self_attention(f32({2, 5, 3, 3, 4}), attention_options(0, -1));
       }},
      {packed, "self_attention: expected key_padding_mask of type bool, got f32",
       [] {
         return self_attention(f32({2, 5, 3, 3, 4}), attention_options(0, 0, f32({2, 5})));
       }},
      {packed, "self_attention: expected key_padding_mask [2,5], got [5]",
       [] {
         return self_attention(f32({2, 5, 3, 3, 4}), attention_options(0, 0, flags({5})));
       }},
  };
}

std::vector<BadCall> norm_calls() {
  using namespace nn;  // NOLINT: a table
  const char* const norm = "layer_norm(x, gamma, beta, eps, form)";
  const char* const conditional =
      "conditional_layer_norm(x, gamma, beta, delta_gamma, delta_beta, eps, form)";
  constexpr LayerNormForm kUnbiased = LayerNormForm::unbiased_std;
  return {
      {norm, "layer_norm: expected x of a floating type, got i64",
       [] {
         return layer_norm(i64({2, 3}), f32({3}), f32({3}), 0, kUnbiased);
       }},
      {norm, "layer_norm: expected gamma [3], got [2]",
       [] {
         return layer_norm(f32({2, 3}), f32({2}), f32({3}), 0, kUnbiased);
       }},
      {norm, "layer_norm: expected beta of type f32, got f64",
       [] {
         return layer_norm(f32({2, 3}), f32({3}), f64({3}), 0, kUnbiased);
       }},
      {norm, "layer_norm: expected eps of at least 0, got -1",
       [] {
         return layer_norm(f32({2, 3}), f32({3}), f32({3}), -1, kUnbiased);
       }},
      {norm, "layer_norm: expected at least two features for an unbiased std, got x [2,1]",
       [] {
         return layer_norm(f32({2, 1}), f32({1}), f32({1}), 0, kUnbiased);
       }},
      {norm, "layer_norm: expected a LayerNormForm, got 9",
       [] {
         return layer_norm(f32({2, 3}), f32({3}), f32({3}), 0, static_cast<LayerNormForm>(9));
       }},
      {conditional, "conditional_layer_norm: expected x of at least one dimension, got []",
       [] { return conditional_layer_norm(f32({}), f32({1}), f32({1}), f32({}), f32({})); }},
      {conditional, "conditional_layer_norm: expected delta_gamma [2,3], got [3]",
       [] {
         return conditional_layer_norm(f32({2, 3}), f32({3}), f32({3}), f32({3}), f32({2, 3}));
       }},
      {conditional, "conditional_layer_norm: expected a tensor for delta_beta",
       [] {
         return conditional_layer_norm(f32({2, 3}), f32({3}), f32({3}), f32({2, 3}), kNone);
       }},
      {conditional, "conditional_layer_norm: expected delta_beta [2,3], got [3,2]",
       [] {
         return conditional_layer_norm(f32({2, 3}), f32({3}), f32({3}), f32({2, 3}), f32({3, 2}));
       }},
  };
}

std::vector<BadCall> all_calls() {
  std::vector<BadCall> calls;
  for (const auto& part :
       {math_calls(), matrix_calls(), reduce_calls(), row_calls(), shape_calls(), attention_calls(),
        norm_calls(), conv_calls(), batch_norm_calls(), pool_calls()})
    calls.insert(calls.end(), part.begin(), part.end());
  return calls;
}

TEST(BadInput, ThrowsAnErrorThatSaysWhatIsWrong) {
  for (const BadCall& bad : all_calls()) {
    SCOPED_TRACE(bad.text);
    try {
      bad.call();
      ADD_FAILURE() << bad.function << " accepted it";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::internal);
      EXPECT_THAT(e.what(), ::testing::StartsWith(bad.text));
    }
  }
}

TEST(BadInput, LeaksNothing) {
  const std::vector<BadCall> calls = all_calls();
  const int64_t before = memory_stats({}).live;
  for (const BadCall& bad : calls) EXPECT_THROW(bad.call(), Error) << bad.text;
  EXPECT_EQ(memory_stats({}).live, before);
}

TEST(BadInput, IsTriedOnEveryFunctionOfTheHeader) {
  const std::vector<std::string> declared = declared_functions();
  const std::set<std::string> known(declared.begin(), declared.end());
  std::set<std::string> tried;
  for (const BadCall& bad : all_calls()) {
    EXPECT_TRUE(known.count(bad.function)) << "nn/ops.h does not declare " << bad.function;
    tried.insert(bad.function);
  }
  EXPECT_EQ(tried, known);
}

// A target that is ignored may be any id; a NaN weight is the caller's and gives NaN, not an error.
TEST(BadInput, IsNotWhatIsAllowed) {
  nn::CrossEntropyOptions options;
  options.ignore_index = 77;
  EXPECT_TRUE(std::isnan(nn::cross_entropy(f32({1, 3}), id(77), options).item()));
  options.weight = Tensor::full({1}, kNan);
  EXPECT_TRUE(std::isnan(nn::cross_entropy(f32({1, 3}), id(1), options).item()));
}

}  // namespace
}  // namespace pinion::testing
