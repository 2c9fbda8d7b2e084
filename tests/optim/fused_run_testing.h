// SPDX-License-Identifier: Apache-2.0
// What the tests of whole fused runs share on every device: a data set, models, and the same run by
// the ordinary way, layer by layer.
#pragma once

#include <gtest/gtest.h>

#include "pinion/kernels/kernels.h"
#include "pinion/nn/init.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/fused_run.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/nn/fused_mlp_testing.h"

namespace pinion::testing {

struct Net {
  nn::Linear fc1, fc2;

  Net(uint64_t seed, int64_t features, int64_t hidden, int64_t classes)
      : fc1((manual_seed(seed), features), hidden), fc2(hidden, classes) {}
  std::vector<Tensor> parameters() const { return {fc1.weight, fc1.bias, fc2.weight, fc2.bias}; }
  Net on_device(Device device) const {
    Net copy = *this;
    for (Tensor* p : {&copy.fc1.weight, &copy.fc1.bias, &copy.fc2.weight, &copy.fc2.bias})
      *p = p->detach().to(device).clone().requires_grad(true);
    return copy;
  }
};

// Samples whose class is where their first feature lies, but for some that are wrong.
struct Samples {
  Tensor x, target;

  Samples(int64_t n, int64_t features, int64_t classes) : x(noise({n, features}, 11)) {
    const std::vector<float> v = x.values<float>();
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < n; ++i) {
      const double at = (double{v[static_cast<size_t>(i * features)]} + 1.5) / 3;
      const auto id = static_cast<int64_t>(at * static_cast<double>(classes));
      ids.push_back(i % 9 == 0 ? i % classes : std::min(classes - 1, std::max<int64_t>(0, id)));
    }
    target = Tensor::of(ids, {n});
  }
};

// The run that train_fused describes, by autograd and Adam.
inline std::vector<optim::FusedEpoch> train_layered(Net& net, const Samples& data,
                                                    const optim::FusedRunOptions& o) {
  const int64_t n = data.x.size(0);
  const std::vector<nn::NamedTensor> parameters = {
      {"w1", net.fc1.weight}, {"b1", net.fc1.bias}, {"w2", net.fc2.weight}, {"b2", net.fc2.bias}};
  std::unique_ptr<optim::Optimizer> adam;
  if (o.decoupled)
    adam = std::make_unique<optim::AdamW>(
        parameters, optim::AdamWOptions{o.adam.lr, o.adam.beta1, o.adam.beta2, o.adam.eps,
                                        o.adam.weight_decay});
  else
    adam = std::make_unique<optim::Adam>(parameters, o.adam);
  Tensor order({n}, DType::i64);
  std::vector<optim::FusedEpoch> out;
  for (int64_t epoch = 0; epoch < o.epochs; ++epoch) {
    on({}, [&](auto& ctx) {
      kernels::permute(ctx, n, optim::fused_run_order(o.seed, epoch), 0, order.mut());
    });
    double loss_sum = 0, steps = 0, correct = 0;
    for (int64_t at = 0; at < n; at += o.batch_size, ++steps) {
      const Tensor ids = order.rows(at, std::min(n, at + o.batch_size));
      std::vector<int64_t> want;
      for (const int64_t id : ids.values<int64_t>())
        want.push_back(data.target.view().as<int64_t>()[id]);
      const Tensor target = Tensor::of(want, ids.shape());
      const Tensor logits = net.fc2(net.fc1(nn::embedding(data.x, ids), Activation::relu));
      const Tensor loss = nn::cross_entropy(logits, target);
      adam->zero_grad();
      backward(loss);
      adam->step();
      loss_sum += loss.item();
      const auto best = nn::argmax(logits, 1).values<int64_t>();
      for (size_t i = 0; i < best.size(); ++i) correct += best[i] == want[i];
    }
    out.push_back({loss_sum / steps, correct / static_cast<double>(n)});
  }
  return out;
}

inline std::vector<std::vector<float>> bits(const Net& net) {
  std::vector<std::vector<float>> out;
  for (const Tensor& p : net.parameters()) out.push_back(p.detach().to({}).values<float>());
  return out;
}

}  // namespace pinion::testing
