// SPDX-License-Identifier: Apache-2.0
// The relational memory as one op: against its equations step by step, against differences, and
// with any number of threads.
#include <gtest/gtest.h>

#include <cmath>

#include "pinion/apps/report/relational_memory.h"
#include "pinion/nn/init.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {
namespace {

struct Sizes {
  int64_t batch, steps, slots, heads, width;
};
// Chunks of several studies, and panels and registers that are not full.
constexpr Sizes kSmall{5, 4, 3, 2, 6};
constexpr Sizes kNano{11, 9, 2, 4, 64};

Tensor waves(const Shape& shape, DType dtype, double phase) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::sin(0.7 * static_cast<double>(i) + phase);
  return nn::cast(Tensor::of(values, shape), dtype);
}

struct Case {
  RelationalMemory memory;
  Tensor words, dy;

  Case(const Sizes& s, DType dtype, bool dropout)
      : memory((manual_seed(7), RelationalMemory(s.width, s.heads, s.slots))),
        words(waves({s.batch, s.steps, s.width}, dtype, 1)),
        dy(waves({s.batch, s.steps, s.slots * s.width}, dtype, 2)) {
    memory.to(dtype);
    memory.train(dropout);
    words.requires_grad(true);
  }
  // The result and all gradients, the words' first. A copy of the module draws the same numbers.
  std::vector<Tensor> run(bool fused) {
    RelationalMemory copy = memory;
    const Tensor y = fused ? copy(words) : copy.by_steps(words);
    backward(y, dy);
    std::vector<Tensor> out{y.detach()};
    const auto take = [&](Tensor& leaf) {
      out.push_back(leaf.grad().clone());
      leaf.set_grad({});
    };
    take(words);
    for (Tensor& parameter : memory.parameters()) take(parameter);
    return out;
  }
  double loss() {
    const NoGrad no_grad;
    RelationalMemory copy = memory;
    return nn::sum(copy(words) * dy).item();
  }
};

std::vector<double> reals(const Tensor& x) { return nn::cast(x, DType::f64).values<double>(); }

// |a - b| / |b|
double error(const Tensor& a, const Tensor& b) {
  const std::vector<double> p = reals(a), q = reals(b);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < q.size(); ++i) {
    difference += (p[i] - q[i]) * (p[i] - q[i]);
    norm += q[i] * q[i];
  }
  return std::sqrt(difference / (norm + 1e-30));
}

// Bit for bit; where nothing is optimised, the compiler rounds some products that it fuses else.
void expect_same_result(const Tensor& a, const Tensor& b) {
#ifdef NDEBUG
  EXPECT_EQ(reals(a), reals(b));
#else
  EXPECT_LT(error(a, b), 1e-6);
#endif
}

// The result bit for bit; of the gradients those of weights are sums over all words in one product,
// and scores lie in another order.
void expect_equal_to_steps(const Sizes& sizes, DType dtype, bool dropout, double bound) {
  Case c(sizes, dtype, dropout);
  const std::vector<Tensor> got = c.run(true), expected = c.run(false);
  ASSERT_EQ(got.size(), 18U);
  expect_same_result(got[0], expected[0]);
  for (size_t i = 0; i < got.size(); ++i) {
    // Keys have no use for their bias, which moves all scores of a query alike.
    if (i == 2 + 3) continue;
    EXPECT_LT(error(got[i], expected[i]), bound) << "tensor " << i;
  }
}

TEST(RelationalMemory, EqualsItsSteps) {
  for (const bool dropout : {false, true}) {
    expect_equal_to_steps(kSmall, DType::f64, dropout, 1e-12);
    expect_equal_to_steps(kNano, DType::f64, dropout, 1e-12);
    expect_equal_to_steps(kNano, DType::f32, dropout, 3e-6);
  }
}

TEST(RelationalMemory, HasTheGradientsOfDifferences) {
  Case c(kSmall, DType::f64, true);
  const std::vector<Tensor> got = c.run(true);
  std::vector<Tensor> leaves{c.words};
  for (const Tensor& parameter : c.memory.parameters()) leaves.push_back(parameter);
  for (size_t k = 0; k < leaves.size(); ++k) {
    const std::vector<double> gradient = reals(got[k + 1]), values = reals(leaves[k]);
    for (size_t i = 0; i < values.size(); i += 5) {
      const auto loss_at = [&](double shift) {
        std::vector<double> moved = values;
        moved[i] += shift;
        leaves[k].copy_(Tensor::of(moved, leaves[k].shape()));
        return c.loss();
      };
      constexpr double kStep = 1e-5;
      const double difference = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
      loss_at(0);
      EXPECT_NEAR(gradient[i], difference, 1e-7 * (1 + std::abs(difference)))
          << "leaf " << k << ", element " << i;
    }
  }
}

TEST(RelationalMemory, GradientsInAnArenaForgetTheStepBefore) {
  Case c(kSmall, DType::f32, false);
  optim::Sgd sgd(c.memory.named_parameters(), {.lr = 0});
  std::vector<std::vector<float>> first;
  for (int step = 0; step < 2; ++step) {
    backward(c.memory(c.words), c.dy);
    const std::vector<Tensor> parameters = c.memory.parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto gradient = parameters[i].grad().values<float>();
      if (step == 0) first.push_back(gradient);
      EXPECT_EQ(gradient, first[i]) << "parameter " << i;
    }
    sgd.zero_grad();
  }
}

TEST(RelationalMemory, HasTheSameBitsWithAnyNumberOfThreads) {
  Case c({21, 7, 3, 4, 32}, DType::f32, true);
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3}) {
    const CpuContextGuard guard(threads);
    const std::vector<Tensor> got = c.run(true);
    if (first.empty()) first = got;
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_EQ(got[i].values<float>(), first[i].values<float>()) << threads << ": tensor " << i;
  }
}

TEST(RelationalMemory, LeavesToTheBitWhatOneWordLeavesAfterTheOther) {
  Case c(kNano, DType::f32, false);
  const NoGrad no_grad;
  const Tensor all = c.memory(c.words);
  const Tensor words = c.words.detach();
  Tensor memory = c.memory.initial(kNano.batch);
  for (int64_t t = 0; t < kNano.steps; ++t)
    memory = c.memory.step(memory,
                           nn::reshape(nn::slice(words, 1, t, t + 1), {kNano.batch, kNano.width}));
  const Tensor last = nn::slice(all, 1, kNano.steps - 1, kNano.steps);
  expect_same_result(last, nn::reshape(memory, last.shape()));
}

}  // namespace
}  // namespace pinion::report
