// SPDX-License-Identifier: Apache-2.0
// The fused MLP on a CUDA device, a GPU or the simulator, against the one on the CPU.
#include <gmock/gmock.h>

#include "pinion/nn/amp.h"
#include "pinion/nn/fused_mlp.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/nn/fused_mlp_testing.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

using nn::FusedMlp;

FusedMlp moved(const FusedMlp& model, Device device) {
  FusedMlp copy = model;
  for (nn::Linear& layer : copy.layers)
    for (Tensor* p : {&layer.weight, &layer.bias})
      *p = p->detach().to(device).clone().requires_grad(true);
  return copy;
}

// The loss, the gradients of x and of all parameters, and the outputs.
std::vector<Tensor> results(FusedMlp model, Device device, int64_t rows, bool cross_entropy) {
  const int64_t in = model.layers[0].weight.size(1), out = model.layers.back().weight.size(0);
  model = moved(model, device);
  const Tensor x = noise({rows, in}, 3).to(device).requires_grad(true);
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(r * 7919 % out);
  const Tensor loss = cross_entropy ? model.cross_entropy(x, Tensor::of(ids, {rows}).to(device))
                                    : model.mse_loss(x, noise({rows, out}, 5).to(device));
  backward(loss);
  std::vector<Tensor> all{loss.detach(), x.grad()};
  for (const Tensor& p : model.parameters()) all.push_back(p.grad());
  const NoGrad no_grad;
  all.push_back(nn::cast(model(x), DType::f32));
  for (Tensor& t : all) t = t.to(kCpu);
  return all;
}

TEST_F(CudaKernels, FusedMlpEqualsTheCpus) {
  const struct {
    std::vector<int64_t> widths;
    int64_t rows;
    Activation activation;
    bool cross_entropy;
  } cases[] = {
      {{10, 32, 2}, 32, Activation::relu, true},
      {{1, 1}, 1, Activation::relu, false},
      {{3, 17, 5}, 7, Activation::gelu, true},
      {{64, 64, 64, 64, 64, 16}, 300, Activation::relu, false},
      {{20, 33, 40, 7}, 150, Activation::gelu_tanh, true},
      {{300, 128, 100}, 90, Activation::relu, false},  // weights one layer at a time
      {{8, 128, 128, 128, 128, 128, 3}, 40, Activation::gelu, false},
      {{70, 64, 128, 3}, 129, Activation::gelu, true},  // two panels of columns, a row too many
  };
  for (const auto& c : cases)
    for (const nn::Precision precision : {nn::Precision::no, nn::Precision::bf16}) {
      const nn::Autocast guard(precision);
      const FusedMlp model(c.widths, c.activation);
      const std::vector<Tensor> want = results(model, kCpu, c.rows, c.cross_entropy);
      const std::vector<Tensor> got = results(model, kCuda, c.rows, c.cross_entropy);
      ASSERT_EQ(want.size(), got.size());
      for (size_t i = 0; i < want.size(); ++i)
        EXPECT_LT(distance(got[i], want[i]), precision == nn::Precision::no ? 4e-6 : 1.2e-2)
            << c.widths[0] << " features, " << c.rows << " rows, tensor " << i << " in "
            << name_of(precision);
    }
}

TEST_F(CudaKernels, FusedMlpRepeatsItsBits) {
  const FusedMlp model({20, 64, 32, 10});
  const std::vector<Tensor> first = results(model, kCuda, 777, true);
  const std::vector<Tensor> again = results(model, kCuda, 777, true);
  for (size_t i = 0; i < first.size(); ++i)
    EXPECT_EQ(first[i].values<float>(), again[i].values<float>()) << "tensor " << i;
}

TEST_F(CudaKernels, FusedMlpSaysWhatDoesNotFit) {
  const FusedMlp model = moved(FusedMlp({5000, 128, 2}), kCuda);
  const NoGrad no_grad;
  try {
    model(noise({4, 5000}, 1).to(kCuda));
    ADD_FAILURE() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::device);
    EXPECT_THAT(e.what(), ::testing::HasSubstr("from 5000 features; use nn::Mlp"));
  }
}

}  // namespace
}  // namespace pinion::testing
