// SPDX-License-Identifier: Apache-2.0
// Training under autocast on any device, with the copies that optimizers keep compared with casts.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/amp.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/low_precision.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"

namespace pinion::testing {

inline void expect_cast(const Tensor& w, const Tensor& low) {
  ASSERT_TRUE(low.defined());
  EXPECT_EQ(low.shape(), w.shape());
  Tensor want(w.shape(), low.dtype(), w.device());
  on(w.device(), [&](auto& ctx) { kernels::cast(ctx, w, want.mut()); });
  const auto bytes = [](const Tensor& t) {
    const Tensor host = t.to(Device{});
    return std::string(static_cast<const char*>(host.view().data),
                       static_cast<size_t>(host.numel() * 2));
  };
  EXPECT_TRUE(bytes(low) == bytes(want));
}

template <class Opt, class Options>
void expect_copies_of(const Options& options, nn::Precision precision, bool capturable,
                      Device device) {
  manual_seed(2);
  nn::Mlp model({7, 33, 3});
  model.to(device);
  Opt optimizer(model.named_parameters(), options);
  if (capturable) optimizer.make_capturable();
  const DType low = precision == nn::Precision::bf16 ? DType::bf16 : DType::f16;
  for (int step = 0; step < 4; ++step) {
    Tensor x({6, 7});
    nn::init::normal(x);
    Tensor loss;
    {
      const nn::Autocast guard(precision);
      const Tensor y = model(x.to(device));
      loss = nn::sum(y * y);
    }
    backward(loss);
    optimizer.step();
    optimizer.zero_grad();
    for (const Tensor& p : model.parameters()) expect_cast(p, nn::LowPrecisionCopy::find(p, low));
  }
}

inline void expect_copies_are_casts(Device device) {
  for (const nn::Precision p : {nn::Precision::bf16, nn::Precision::fp16})
    for (const bool capturable : {false, true}) {
      expect_copies_of<optim::Adam>(optim::AdamOptions{.lr = 0.1}, p, capturable, device);
      expect_copies_of<optim::AdamW>(optim::AdamWOptions{.lr = 0.1, .amsgrad = true}, p, capturable,
                                     device);
      expect_copies_of<optim::Sgd>(optim::SgdOptions{.lr = 0.01}, p, capturable, device);
      expect_copies_of<optim::Sgd>(optim::SgdOptions{.lr = 0.01, .momentum = 0.9}, p, capturable,
                                   device);
    }
}

}  // namespace pinion::testing
