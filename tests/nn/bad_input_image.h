// SPDX-License-Identifier: Apache-2.0
// Wrong arguments to every function of nn/ops_image.h.
#pragma once

#include <vector>

#include "bad_input.h"
#include "pinion/nn/ops_image.h"

namespace pinion::testing {

inline BadCall bad_conv2d(const char* text, Tensor (*call)()) {
  return {"conv2d(x, w, b, window)", text, call};
}

inline std::vector<BadCall> conv_calls() {
  using nn::conv2d;
  return {
      bad_conv2d("conv2d: expected a tensor for x",
                 [] {
                   return conv2d(kNone, f32({2, 3, 3, 4}));
                 }),
      bad_conv2d("conv2d: expected x of a floating type, got i64",
                 [] {
                   return conv2d(i64({1, 5, 5, 4}), f32({2, 3, 3, 4}));
                 }),
      bad_conv2d("conv2d: expected x of 4 dimensions, got [5,5,4]",
                 [] {
                   return conv2d(f32({5, 5, 4}), f32({2, 3, 3, 4}));
                 }),
      bad_conv2d("conv2d: expected weight of type f32, got f64",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f64({2, 3, 3, 4}));
                 }),
      bad_conv2d("conv2d: expected weight of 4 dimensions, got [2,4]",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 4}));
                 }),
      bad_conv2d("conv2d: x [1,5,5,4] does not fit weight [2,4,3,3]",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 4, 3, 3}));
                 }),
      bad_conv2d("conv2d: expected a window in weight, got [2,0,3,4]",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 0, 3, 4}));
                 }),
      bad_conv2d("conv2d: expected bias [2], got [4]",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 3, 3, 4}), f32({4}));
                 }),
      bad_conv2d("conv2d: expected bias of type f32, got f64",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 3, 3, 4}), f64({2}));
                 }),
      bad_conv2d("conv2d: expected stride in [1, 1048576], got 0",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 3, 3, 4}), {}, {.stride = 0});
                 }),
      bad_conv2d("conv2d: expected padding in [0, 1048576], got -1",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 3, 3, 4}), {}, {.padding = -1});
                 }),
      bad_conv2d("conv2d: expected dilation in [1, 1048576], got 0",
                 [] {
                   return conv2d(f32({1, 5, 5, 4}), f32({2, 3, 3, 4}), {}, {.dilation = 0});
                 }),
      bad_conv2d("conv2d: expected images that hold a window of weight [2,3,3,4], got x [1,2,5,4]",
                 [] {
                   return conv2d(f32({1, 2, 5, 4}), f32({2, 3, 3, 4}));
                 }),
  };
}

// A call of batch_norm2d with sound arguments but for what `spoil` changes.
struct BatchNormCall {
  Tensor x = f32({4, 2, 2, 3}), gamma = f32({3}), beta = f32({3}), mean = f32({3}), var = f32({3});
  nn::BatchNormOptions options;
};
template <class Spoil>
Tensor spoilt(Spoil spoil) {
  BatchNormCall c;
  spoil(c);
  return nn::batch_norm2d(c.x, c.gamma, c.beta, c.mean, c.var, c.options);
}
inline BadCall bad_norm(const char* text, Tensor (*call)()) {
  return {"batch_norm2d(x, gamma, beta, running_mean, running_var, options)", text, call};
}

inline std::vector<BadCall> batch_norm_calls() {
  using Call = BatchNormCall&;
  return {
      bad_norm("batch_norm2d: expected x of 4 dimensions, got [8,3]",
               [] { return spoilt([](Call c) {
                      c.x = f32({8, 3});
                    }); }),
      bad_norm("batch_norm2d: expected a tensor for gamma",
               [] { return spoilt([](Call c) { c.gamma = kNone; }); }),
      bad_norm("batch_norm2d: expected gamma of type f32, got f64",
               [] { return spoilt([](Call c) { c.gamma = f64({3}); }); }),
      bad_norm("batch_norm2d: expected beta [3], got [4]",
               [] { return spoilt([](Call c) { c.beta = f32({4}); }); }),
      bad_norm("batch_norm2d: expected running_mean [3], got [1]",
               [] { return spoilt([](Call c) { c.mean = f32({1}); }); }),
      bad_norm("batch_norm2d: expected a tensor for running_var",
               [] { return spoilt([](Call c) { c.var = kNone; }); }),
      bad_norm("batch_norm2d: expected running_var of a floating type, got i64",
               [] { return spoilt([](Call c) { c.var = i64({3}); }); }),
      bad_norm("batch_norm2d: expected a tensor for running_mean",
               [] {
                 return spoilt([](Call c) { c.mean = c.var = kNone, c.options.training = false; });
               }),
      bad_norm("batch_norm2d: expected eps >= 0, got nan",
               [] { return spoilt([](Call c) { c.options.eps = kNan; }); }),
      bad_norm("batch_norm2d: expected momentum in [0, 1], got 2",
               [] { return spoilt([](Call c) { c.options.momentum = 2; }); }),
      bad_norm("batch_norm2d: expected residual [4,2,2,3], got [4,4,3]",
               [] { return spoilt([](Call c) {
                      c.options.residual = f32({4, 4, 3});
                    }); }),
      bad_norm("batch_norm2d: expected residual of type f32, got f64",
               [] { return spoilt([](Call c) {
                      c.options.residual = f64({4, 2, 2, 3});
                    }); }),
      bad_norm("batch_norm2d: expected groups that divide the 4 images, got 3",
               [] { return spoilt([](Call c) { c.options.groups = 3; }); }),
      bad_norm("batch_norm2d: expected groups that divide the 4 images, got 0",
               [] { return spoilt([](Call c) { c.options.groups = 0; }); }),
      bad_norm("batch_norm2d: expected more than one element of each channel in a group",
               [] {
                 return spoilt([](Call c) { c.x = f32({4, 1, 1, 3}), c.options.groups = 4; });
               }),
  };
}

inline std::vector<BadCall> pool_calls() {
  using namespace nn;  // NOLINT: a table
  const char* const largest = "max_pool2d(x, window)";
  const char* const average = "avg_pool2d(x, window)";
  const char* const adaptive = "adaptive_avg_pool2d(x, height, width)";
  return {
      {largest, "max_pool2d: expected x of 4 dimensions, got [2,2]",
       [] {
         return max_pool2d(f32({2, 2}), {.window = 2});
       }},
      {largest, "max_pool2d: expected window in [1, 16], got 0",
       [] {
         return max_pool2d(f32({1, 4, 4, 1}), {});
       }},
      {largest, "max_pool2d: expected window in [1, 16], got 17",
       [] {
         return max_pool2d(f32({1, 40, 40, 1}), {.window = 17});
       }},
      {largest, "max_pool2d: expected stride in [1, 1048576], got 0",
       [] {
         return max_pool2d(f32({1, 4, 4, 1}), {.window = 2, .stride = 0});
       }},
      {largest, "max_pool2d: expected padding of at most half the window, got 2 of 3",
       [] {
         return max_pool2d(f32({1, 4, 4, 1}), {.window = 3, .padding = 2});
       }},
      {largest, "max_pool2d: expected images that hold a window of 3, got x [1,2,4,1]",
       [] {
         return max_pool2d(f32({1, 2, 4, 1}), {.window = 3});
       }},
      {average, "avg_pool2d: expected x of a floating type, got i64",
       [] {
         return avg_pool2d(i64({1, 4, 4, 1}), {.window = 2});
       }},
      {average, "avg_pool2d: expected padding of at most half the window, got -1 of 2",
       [] {
         return avg_pool2d(f32({1, 4, 4, 1}), {.window = 2, .padding = -1});
       }},
      {adaptive, "adaptive_avg_pool2d: expected height > 0 and width > 0, got height 2, width 0",
       [] {
         return adaptive_avg_pool2d(f32({1, 4, 4, 1}), 2, 0);
       }},
      {adaptive, "adaptive_avg_pool2d: expected images x, got [1,0,4,1]",
       [] {
         return adaptive_avg_pool2d(f32({1, 0, 4, 1}), 2, 2);
       }},
      {"global_avg_pool2d(x)", "global_avg_pool2d: expected x of 4 dimensions, got [3]",
       [] { return global_avg_pool2d(f32({3})); }},
  };
}

}  // namespace pinion::testing
