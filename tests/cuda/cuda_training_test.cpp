// SPDX-License-Identifier: Apache-2.0
// Whole training steps on a CUDA device, a GPU or the simulator: they follow the CPU's.
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/clip.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

struct Trained {
  std::vector<double> losses;
  std::vector<Tensor> parameters;
};

// A few steps of a classifier with the same initial weights and data on either device.
template <class MakeOptimizer>
Trained train(const nn::Mlp& initial, Device device, MakeOptimizer make_optimizer) {
  nn::Mlp model = initial;
  for (nn::Linear& layer : model.layers)
    for (Tensor* p : {&layer.weight, &layer.bias})
      *p = p->detach().to(device).clone().requires_grad(true);
  auto optimizer = make_optimizer(model.named_parameters());
  Trained out;
  for (uint64_t step = 0; step < 6; ++step) {
    Tensor x({24, 10});
    on({}, [&](auto& ctx) { kernels::normal(ctx, x.mut(), {3, 1, step}, 0, 1); });
    std::vector<int64_t> classes;
    for (int64_t r = 0; r < 24; ++r) classes.push_back((r * 5 + static_cast<int64_t>(step)) % 3);
    const Tensor loss =
        nn::cross_entropy(model(x.to(device)), Tensor::of(classes, {24}).to(device));
    backward(loss);
    optim::clip_grad_norm_(optimizer, 0.5);
    optimizer.step();
    optimizer.zero_grad();
    out.losses.push_back(loss.to(kCpu).item());
  }
  for (const Tensor& p : model.parameters()) out.parameters.push_back(p.detach().to(kCpu));
  return out;
}

template <class MakeOptimizer>
void expect_the_cpus_steps(MakeOptimizer make_optimizer) {
  const nn::Mlp initial({10, 32, 3});
  const Trained want = train(initial, kCpu, make_optimizer);
  const Trained got = train(initial, kCuda, make_optimizer);
  for (size_t i = 0; i < want.losses.size(); ++i)
    EXPECT_NEAR(got.losses[i], want.losses[i], 1e-5) << "step " << i;
  for (size_t i = 0; i < want.parameters.size(); ++i) {
    const auto a = want.parameters[i].values<float>(), b = got.parameters[i].values<float>();
    for (size_t k = 0; k < a.size(); ++k)
      ASSERT_NEAR(b[k], a[k], 2e-5) << "parameter " << i << " element " << k;
  }
}

TEST_F(CudaKernels, TrainingWithAdamFollowsTheCpu) {
  expect_the_cpus_steps([](const auto& parameters) {
    return optim::Adam(parameters, {.lr = 1e-2, .amsgrad = true});
  });
}
TEST_F(CudaKernels, TrainingWithSgdFollowsTheCpu) {
  expect_the_cpus_steps(
      [](const auto& parameters) { return optim::Sgd(parameters, {.lr = 0.1, .momentum = 0.9}); });
}

}  // namespace
}  // namespace pinion::testing
