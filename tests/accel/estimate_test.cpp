// SPDX-License-Identifier: Apache-2.0
// What estimate-memory says against what the allocator's books say of real training steps.
#include "pinion/accel/estimate.h"

#include <gtest/gtest.h>

#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/allocator.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {
namespace {

struct Mlp : nn::Module {
  std::vector<nn::Linear> layers;

  explicit Mlp(const std::vector<int64_t>& widths) {
    for (size_t i = 1; i < widths.size(); ++i) layers.emplace_back(widths[i - 1], widths[i]);
  }
  Tensor operator()(Tensor x) const {
    for (size_t i = 0; i < layers.size(); ++i)
      x = layers[i](x, i + 1 < layers.size() ? Activation::relu : Activation::none);
    return x;
  }
  void fields(nn::Fields& f) override { f("layers", layers); }
};

// Bytes above those that were there before, at the peak of a steady step.
MemoryEstimate measured(const std::vector<int64_t>& widths, const EstimateOptions& o) {
  const auto live = [](MemoryTag tag) { return memory_stats(Device{}, tag).live; };
  MemoryEstimate before{live(MemoryTag::parameters), live(MemoryTag::gradients),
                        live(MemoryTag::optimizer), live(MemoryTag::activations)};
  Mlp model(widths);
  std::unique_ptr<optim::Optimizer> optimizer;
  if (o.optimizer.starts_with("adam"))
    optimizer = std::make_unique<optim::Adam>(model.named_parameters());
  else
    optimizer = std::make_unique<optim::Sgd>(
        model.named_parameters(),
        optim::SgdOptions{.lr = 0.1, .momentum = o.optimizer == "sgd" ? 0 : 0.9});
  Tensor x, y;
  {
    const MemoryTagScope data(MemoryTag::data);
    x = Tensor::zeros({o.batch_size, widths.front()}, DType::f32);
    y = Tensor::zeros({o.batch_size}, DType::i64);
  }
  const MemoryTagScope tag(MemoryTag::activations);
  for (int step = 0; step < 2; ++step) {
    if (step == 1) reset_peak(Device{});
    Tensor logits, loss;
    {
      nn::Autocast autocast(o.precision);
      logits = model(x);
      loss = nn::cross_entropy(logits, y);
    }
    backward(loss);
    optimizer->step();
    optimizer->zero_grad();
  }
  const auto peak = [](MemoryTag t) { return memory_stats(Device{}, t).peak; };
  nn::amp::clear_cache();
  return {peak(MemoryTag::parameters) - before.parameters,
          peak(MemoryTag::gradients) - before.gradients,
          peak(MemoryTag::optimizer) - before.optimizer,
          peak(MemoryTag::activations) - before.activations};
}

void expect_within(int64_t estimate, int64_t truth, const char* what) {
  constexpr double kShare = 0.05;
  constexpr int64_t kPosted = 64 << 10;  // what the books of a thread may lag behind
  EXPECT_LE(std::abs(estimate - truth), static_cast<int64_t>(kShare * double(truth)) + kPosted)
      << what << ": estimated " << estimate << ", measured " << truth;
}

TEST(Estimate, AgreesWithTheAllocatorsBooks) {
  const std::vector<std::vector<int64_t>> models = {
      {512, 512, 512, 10}, {128, 2048, 500}, {1000, 800}, {64, 1500, 64, 1500, 64}};
  for (const auto& widths : models) {
    for (const char* optimizer : {"adam", "sgd", "sgd+momentum"}) {
      for (const nn::Precision precision : {nn::Precision::no, nn::Precision::bf16}) {
        const EstimateOptions o{.optimizer = optimizer, .precision = precision, .batch_size = 256};
        SCOPED_TRACE(testing::Message() << optimizer << " " << nn::name_of(precision) << " "
                                        << testing::PrintToString(widths));
        MemoryEstimate estimate = estimate_memory(mlp_parameters(widths), o);
        estimate.activations = mlp_activations(widths, o);
        const MemoryEstimate truth = measured(widths, o);
        expect_within(estimate.parameters, truth.parameters, "parameters");
        expect_within(estimate.gradients, truth.gradients, "gradients");
        expect_within(estimate.optimizer, truth.optimizer, "optimizer");
        expect_within(estimate.activations, truth.activations, "activations");
        EXPECT_EQ(estimate.buckets, 0);
      }
    }
  }
}

// Psi parameters of 4 bytes on N ranks: 16 Psi without ZeRO, 8 + 8/N, 4 + 12/N and 16/N with it.
TEST(Estimate, ZeroFollowsTheAlgebra) {
  const std::vector<int64_t> parameters = {1 << 20, 1 << 18};
  const int64_t psi = (1 << 20) + (1 << 18), n = 4;
  const int64_t expected[] = {16 * psi, 8 * psi + 8 * psi / n, 4 * psi + 12 * psi / n,
                              16 * psi / n};
  for (int stage = 0; stage <= 3; ++stage) {
    const MemoryEstimate e =
        estimate_memory(parameters, {.ranks = n, .zero_stage = stage, .bucket_bytes = 1000});
    EXPECT_EQ(e.total() - e.buckets, expected[stage]) << stage;
    EXPECT_EQ(e.buckets, stage < 2 ? 0 : stage == 2 ? 1000 : 2000);
  }
  EXPECT_EQ(estimate_memory(parameters, {.optimizer = "sgd"}).total(), 8 * psi);
  EXPECT_THROW(estimate_memory(parameters, {.optimizer = "lion"}), Error);
  EXPECT_THROW(estimate_memory(parameters, {.ranks = 0}), Error);
  EXPECT_THROW(mlp_parameters(std::vector<int64_t>{3}), Error);
}

}  // namespace
}  // namespace pinion::accel
