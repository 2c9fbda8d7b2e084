// SPDX-License-Identifier: Apache-2.0
// The rows of nn/ops_image.h.
#pragma once

#include <vector>

#include "op_case.h"
#include "pinion/nn/ops_image.h"

namespace pinion::testing {

// x, gamma, beta and perhaps a residual, with running statistics that nobody looks at.
inline Tensor batch_norm_of(Xs x, nn::BatchNormOptions options) {
  if (x.size() == 4) options.residual = x[3];
  const Tensor mean = Tensor::zeros(x[1].shape(), DType::f32, x[0].device());
  const Tensor var = Tensor::full(x[1].shape(), 1, DType::f32, x[0].device());
  return nn::batch_norm2d(x[0], x[1], x[2], mean, var, options);
}

// x, gamma, beta, running mean and variance, and perhaps a residual.
inline Tensor batch_norm_eval_of(Xs x) {
  nn::BatchNormOptions options;
  options.training = false;
  options.relu = x.size() == 6;
  if (options.relu) options.residual = x[5];
  return nn::batch_norm2d(x[0], x[1], x[2], x[3], x[4], options);
}

inline std::vector<OpCase> conv_cases() {
  using namespace nn;  // NOLINT: a table
  const char* const function = "conv2d(x, w, b, window)";
  return {
      {"conv2d",
       function,
       {real({2, 5, 6, 3}), real({4, 3, 2, 3}), real({4})},
       [](Xs x) { return conv2d(x[0], x[1], x[2]); }},
      {"conv2d_strided",
       function,
       {real({2, 7, 6, 3}), real({5, 3, 3, 3}), real({5})},
       [](Xs x) { return conv2d(x[0], x[1], x[2], {.stride = 2, .padding = 1}); }},
      {"conv2d_dilated",
       function,
       {real({1, 9, 8, 2}), real({3, 3, 2, 2})},
       [](Xs x) { return conv2d(x[0], x[1], {}, {.padding = 2, .dilation = 2}); }},
      {"conv2d_1x1",
       function,
       {real({2, 3, 4, 5}), real({6, 1, 1, 5})},
       [](Xs x) { return conv2d(x[0], x[1]); }},
      {"conv2d_1x1_strided",
       function,
       {real({2, 5, 4, 5}), real({6, 1, 1, 5}), real({6})},
       [](Xs x) { return conv2d(x[0], x[1], x[2], {.stride = 2}); }},
      {"conv2d_wide_padding",
       function,
       {real({1, 2, 3, 2}), real({2, 3, 3, 2})},
       [](Xs x) { return conv2d(x[0], x[1], {}, {.padding = 4}); }},
      {"conv2d_large",
       function,
       {real({9, 17, 19, 24}), real({40, 3, 3, 24}), real({40})},
       [](Xs x) { return conv2d(x[0], x[1], x[2], {.padding = 1}); }},
      {"conv2d_strided_large",
       function,
       {real({9, 26, 25, 17}), real({33, 5, 5, 17})},
       [](Xs x) { return conv2d(x[0], x[1], {}, {.stride = 2, .padding = 2}); }},
      {"conv2d_1x1_large",
       function,
       {real({9, 18, 19, 70}), real({40, 1, 1, 70})},
       [](Xs x) { return conv2d(x[0], x[1]); }},
  };
}

inline std::vector<OpCase> batch_norm_cases() {
  using namespace nn;  // NOLINT: a table
  const Shape s{4, 3, 2, 7}, large{8, 31, 33, 70};
  const char* const function = "batch_norm2d(x, gamma, beta, running_mean, running_var, options)";
  return {
      {"batch_norm2d",
       function,
       {real(s), real({7}), real({7})},
       [](Xs x) { return batch_norm_of(x, {}); }},
      {"batch_norm2d_groups",
       function,
       {real(s), real({7}), real({7})},
       [](Xs x) { return batch_norm_of(x, {.groups = 2, .eps = 0.1}); }},
      {"batch_norm2d_relu",
       function,
       {real(s), real({7}), real({7})},
       [](Xs x) { return batch_norm_of(x, {.relu = true}); }},
      {"batch_norm2d_residual",
       function,
       {real(s), real({7}), real({7}), real(s)},
       [](Xs x) { return batch_norm_of(x, {}); }},
      {"batch_norm2d_residual_relu",
       function,
       {real(s), real({7}), real({7}), real(s)},
       [](Xs x) { return batch_norm_of(x, {.groups = 4, .relu = true}); }},
      {"batch_norm2d_eval",
       function,
       {real(s), real({7}), real({7}), weights({7}), weights({7})},
       batch_norm_eval_of},
      {"batch_norm2d_eval_residual_relu",
       function,
       {real(s), real({7}), real({7}), weights({7}), weights({7}), real(s)},
       batch_norm_eval_of},
      {"batch_norm2d_large",
       function,
       {real(large), real({70}), real({70}), real(large)},
       [](Xs x) { return batch_norm_of(x, {.groups = 2}); }},
  };
}

inline std::vector<OpCase> pool_cases() {
  using namespace nn;  // NOLINT: a table
  const char* const largest = "max_pool2d(x, window)";
  const char* const average = "avg_pool2d(x, window)";
  const char* const adaptive = "adaptive_avg_pool2d(x, height, width)";
  return {
      {"max_pool2d",
       largest,
       {distinct({2, 6, 5, 3})},
       [](Xs x) { return max_pool2d(x[0], {.window = 3, .stride = 2, .padding = 1}); }},
      {"max_pool2d_overlapping",
       largest,
       {distinct({1, 5, 7, 4})},
       [](Xs x) { return max_pool2d(x[0], {.window = 3}); }},
      {"max_pool2d_apart",
       largest,
       {distinct({2, 7, 8, 3})},
       [](Xs x) { return max_pool2d(x[0], {.window = 2, .stride = 3}); }},
      {"max_pool2d_large",
       largest,
       {real({5, 57, 56, 21})},
       [](Xs x) { return max_pool2d(x[0], {.window = 3, .stride = 2, .padding = 1}); }},
      {"avg_pool2d",
       average,
       {real({2, 6, 5, 3})},
       [](Xs x) { return avg_pool2d(x[0], {.window = 3, .stride = 2, .padding = 1}); }},
      {"avg_pool2d_large",
       average,
       {real({5, 57, 56, 21})},
       [](Xs x) { return avg_pool2d(x[0], {.window = 2, .stride = 2}); }},
      {"adaptive_avg_pool2d",
       adaptive,
       {real({2, 7, 5, 3})},
       [](Xs x) { return adaptive_avg_pool2d(x[0], 3, 2); }},
      {"adaptive_avg_pool2d_enlarging",
       adaptive,
       {real({1, 2, 3, 2})},
       [](Xs x) { return adaptive_avg_pool2d(x[0], 5, 3); }},
      {"global_avg_pool2d",
       "global_avg_pool2d(x)",
       {real({2, 3, 4, 5})},
       [](Xs x) { return global_avg_pool2d(x[0]); }},
  };
}

inline std::vector<OpCase> image_cases() {
  std::vector<OpCase> rows;
  for (const auto& part : {conv_cases(), batch_norm_cases(), pool_cases()})
    rows.insert(rows.end(), part.begin(), part.end());
  return rows;
}

}  // namespace pinion::testing
