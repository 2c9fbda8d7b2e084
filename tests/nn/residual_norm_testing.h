// SPDX-License-Identifier: Apache-2.0
// nn::residual_layer_norm against the three operations that it stands for, bit for bit, on any
// device.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"

namespace pinion::testing {

struct ResidualCase {
  DType dtype;
  Shape shape;
  double p;
  LayerNormForm form;
};

// Two residual connections one behind the other, as in a layer of a transformer: the sum of the
// first has three uses. The results, and the gradients of all inputs.
inline std::vector<std::string> two_residuals(const ResidualCase& c, Device device, bool fused) {
  const auto leaf = [&](const Shape& shape, uint64_t step) {
    Tensor x(shape), y(shape, c.dtype);
    on({}, [&](auto& ctx) {
      kernels::normal(ctx, x.mut(), {5, 1, step}, 0.25, 1);
      kernels::cast(ctx, x, y.mut());
    });
    y = y.to(device);
    return y.requires_grad(true);
  };
  const Shape row{c.shape[-1]};
  std::vector<Tensor> leaves;
  for (uint64_t i = 0; i < 3; ++i) leaves.push_back(leaf(c.shape, i));
  for (uint64_t i = 3; i < 7; ++i) leaves.push_back(leaf(row, i));
  const auto connect = [&](const Tensor& x, const Tensor& branch, size_t at) -> nn::ResidualNorm {
    const PhiloxKey key{9, 4, at};
    if (fused)
      return nn::residual_layer_norm(x, branch, leaves[at], leaves[at + 1], c.p, key, 1e-3, c.form);
    const Tensor sum = x + nn::dropout(branch, c.p, key);
    return {sum, nn::layer_norm(sum, leaves[at], leaves[at + 1], 1e-3, c.form)};
  };
  const auto first = connect(leaves[0], leaves[1], 3);
  const auto second = connect(first.sum, first.normalised * leaves[2], 5);
  const Tensor y = second.sum * second.normalised + first.sum;
  backward(y, leaf(c.shape, 8).detach());
  std::vector<Tensor> all{first.sum, first.normalised, second.sum, second.normalised};
  for (const Tensor& x : leaves) all.push_back(x.grad());
  std::vector<std::string> bytes;
  for (const Tensor& t : all) {
    const Tensor host = t.detach().to(Device{});
    bytes.emplace_back(static_cast<const char*>(host.view().data),
                       static_cast<size_t>(host.numel() * size_of(host.dtype())));
  }
  return bytes;
}

inline void expect_one_kernel_is_three(Device device) {
  for (const DType t : {DType::f32, DType::f64, DType::bf16, DType::f16})
    for (const Shape& shape : {Shape{5, 8}, Shape{3, 2, 37}, Shape{2, 301}, Shape{1, 2}})
      for (const double p : {0.0, 0.3})
        for (const LayerNormForm form : {LayerNormForm::torch, LayerNormForm::unbiased_std}) {
          const ResidualCase c{t, shape, p, form};
          const auto want = two_residuals(c, device, false), got = two_residuals(c, device, true);
          ASSERT_EQ(want.size(), got.size());
          SCOPED_TRACE(cat({t, " ", shape, " p ", p, " form ", static_cast<int>(form)}));
          for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(want[i] == got[i]) << "tensor " << i;
        }
}

}  // namespace pinion::testing
