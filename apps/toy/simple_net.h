// SPDX-License-Identifier: Apache-2.0
// The model of simple_train and accelerate_train, as a program of your own would write it.
#pragma once

#include "pinion/nn/layers.h"

namespace pinion::toy {

// Two linear layers with a ReLU between them: 418 parameters for 10 features and 2 classes.
struct SimpleNet : nn::Module {
  nn::Linear fc1, fc2;

  SimpleNet(int64_t features, int64_t hidden, int64_t classes)
      : fc1(features, hidden), fc2(hidden, classes) {}

  // [n, features] -> [n, classes]
  Tensor operator()(const Tensor& x) const { return fc2(fc1(x, Activation::relu)); }

  void fields(nn::Fields& f) override {
    f("fc1", fc1);
    f("fc2", fc2);
  }
};

}  // namespace pinion::toy
