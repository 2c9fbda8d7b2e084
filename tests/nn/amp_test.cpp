// SPDX-License-Identifier: Apache-2.0
// Autocast: which operations run in which type, gradients in f32, and the 16-bit copies of weights.
#include "pinion/nn/amp.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <thread>

#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::nn {
namespace {

using testing::error_text;
using ::testing::HasSubstr;

Tensor ones(const Shape& shape, DType dtype = DType::f32) { return Tensor::full(shape, 1, dtype); }
DType low(Precision p) { return p == Precision::bf16 ? DType::bf16 : DType::f16; }

constexpr Precision kLow[] = {Precision::bf16, Precision::fp16};

TEST(Autocast, ProductsRunInSixteenBits) {
  for (Precision p : kLow) {
    const Autocast guard(p);
    const DType t = low(p);
    EXPECT_EQ(matmul(ones({2, 3}), ones({3, 4})).dtype(), t);
    EXPECT_EQ(bmm(ones({2, 3, 4}), ones({2, 4, 5})).dtype(), t);
    EXPECT_EQ(self_attention(ones({1, 2, 3, 1, 4})).dtype(), t);
    EXPECT_EQ(attention(ones({1, 2, 1, 4}), ones({1, 3, 1, 4}, t), ones({1, 3, 1, 4})).dtype(), t);
    EXPECT_EQ(linear(ones({2, 3}), ones({4, 3})).dtype(), t);
    EXPECT_EQ(linear(ones({2, 3}, t), ones({4, 3}), ones({4}), Activation::relu).dtype(), t);
    EXPECT_EQ(relu(ones({2}, t)).dtype(), t);  // takes what it gets
    EXPECT_EQ(relu(ones({2})).dtype(), DType::f32);
  }
}

TEST(Autocast, SensitiveOperationsRunInF32) {
  using Op = std::function<Tensor(const Tensor&)>;
  const std::pair<const char*, Op> ops[] = {
      {"softmax", [](const Tensor& x) { return softmax(x); }},
      {"log_softmax", [](const Tensor& x) { return log_softmax(x); }},
      {"cross_entropy",
       [](const Tensor& x) {
         return cross_entropy(x, Tensor::of<int64_t>({0, 1}, {2}));
       }},
      {"layer_norm", [](const Tensor& x) { return layer_norm(x, ones({3}), ones({3})); }},
      {"conditional_layer_norm",
       [](const Tensor& x) {
         return conditional_layer_norm(x, ones({3}), ones({3}), ones({2, 3}), ones({2, 3}));
       }},
      {"exp", [](const Tensor& x) { return exp(x); }},
      {"log", [](const Tensor& x) { return log(x); }},
      {"sum", [](const Tensor& x) { return sum(x); }},
      {"sum over 0", [](const Tensor& x) { return sum(x, 0); }},
      {"mean", [](const Tensor& x) { return mean(x); }},
      {"mean over 0", [](const Tensor& x) { return mean(x, 0); }},
      {"mse_loss",
       [](const Tensor& x) {
         return mse_loss(x, ones({2, 3}));
       }},
  };
  for (Precision p : kLow) {
    for (const auto& [name, op] : ops) {
      Tensor x = ones({2, 3}, low(p));
      x.requires_grad(true);
      Tensor y;
      {
        const Autocast guard(p);
        y = op(x);
      }
      EXPECT_EQ(y.dtype(), DType::f32) << name;
      backward(y, ones(y.shape()));
      EXPECT_EQ(x.grad().dtype(), low(p)) << name;
    }
  }
}

TEST(Autocast, MixedOperandsMeetInF32) {
  for (Precision p : kLow) {
    const Autocast guard(p);
    const Tensor narrow = ones({2, 3}, low(p)), wide = ones({2, 3});
    EXPECT_EQ((narrow + wide).dtype(), DType::f32);
    EXPECT_EQ((wide - narrow).dtype(), DType::f32);
    EXPECT_EQ((narrow * wide).dtype(), DType::f32);
    EXPECT_EQ((wide / narrow).dtype(), DType::f32);
    EXPECT_EQ((narrow + narrow).dtype(), low(p));
    EXPECT_EQ(add_bias(narrow, ones({3})).dtype(), DType::f32);
    EXPECT_EQ(concat({narrow, wide}, 0).dtype(), DType::f32);
  }
}

TEST(Autocast, DoublesAreLeftAlone) {
  const Autocast guard(Precision::bf16);
  EXPECT_EQ(matmul(ones({2, 2}, DType::f64), ones({2, 2}, DType::f64)).dtype(), DType::f64);
  EXPECT_EQ(softmax(ones({2, 2}, DType::f64)).dtype(), DType::f64);
}

TEST(Autocast, GuardsNestAndBelongToTheirThread) {
  EXPECT_EQ(Autocast::current(), Precision::no);
  {
    const Autocast outer(Precision::bf16);
    {
      const Autocast inner(Precision::fp16);
      EXPECT_EQ(Autocast::current(), Precision::fp16);
      const Autocast off(Precision::no);
      EXPECT_EQ(matmul(ones({2, 2}), ones({2, 2})).dtype(), DType::f32);
    }
    EXPECT_EQ(Autocast::current(), Precision::bf16);
    Precision elsewhere = Precision::fp16;
    std::thread([&] { elsewhere = Autocast::current(); }).join();
    EXPECT_EQ(elsewhere, Precision::no);
  }
  EXPECT_EQ(Autocast::current(), Precision::no);
}

// What fp16 promises: operands and the result are rounded to f16, products are summed in f32.
TEST(Autocast, HalfPrecisionIsReal) {
  const Autocast guard(Precision::fp16);
  const Tensor x = Tensor::of<float>({1.0f + 0x1p-12f, 2048}, {1, 2});
  const Tensor w = Tensor::of<float>({1, 1}, {1, 2});
  const Tensor y = linear(x, w);
  EXPECT_EQ(float(y.values<Half>()[0]), 2048);  // 1 + 2048, rounded to even; 2^-12 was lost
  const Tensor big = Tensor::full({1, 4}, 200);
  EXPECT_TRUE(std::isinf(float(linear(big, big).values<Half>()[0])));  // 160000 > 65504
  std::vector<float> cancel = {256, 1, -256};
  const Tensor v = Tensor::of(cancel, {1, 3});
  // 256 256 overflows f16; in f32 it cancels.
  const Tensor u = Tensor::of<float>({256, 3, 256}, {1, 3});
  EXPECT_EQ(float(linear(v, u).values<Half>()[0]), 3);
}

struct Net : Module {
  Linear first{6, 8}, second{8, 3};
  Tensor operator()(const Tensor& x) const { return second(first(x, Activation::gelu)); }
  void fields(Fields& f) override {
    f("first", first);
    f("second", second);
  }
};

TEST(Autocast, GradientsOfParametersAreF32AndClose) {
  manual_seed(3);
  Net net;
  Tensor x({5, 6});
  init::normal(x);
  const Tensor target = Tensor::of<int64_t>({0, 1, 2, 1, 0}, {5});
  const auto gradients = [&](Precision p) {
    for (Tensor& t : net.parameters()) t.set_grad({});
    Tensor loss;
    {
      const Autocast guard(p);
      loss = cross_entropy(net(x), target);
    }
    backward(loss);
    std::vector<double> out;
    for (Tensor& t : net.parameters())
      for (float g : t.grad().values<float>()) out.push_back(g);
    return out;
  };
  const std::vector<double> exact = gradients(Precision::no);
  for (Precision p : kLow) {
    const std::vector<double> rounded = gradients(p);
    const double unit = p == Precision::bf16 ? 0x1p-8 : 0x1p-11;  // of rounding
    bool differ = false;
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_NEAR(rounded[i], exact[i], 8 * unit) << name_of(p);
      differ |= rounded[i] != exact[i];
    }
    EXPECT_TRUE(differ) << name_of(p) << " did not round";
  }
}

// Counts the bytes that a piece of work leaves behind as live copies.
int64_t live() { return memory_stats({}).live; }

TEST(Autocast, WeightsAreRoundedOncePerVersion) {
  amp::clear_cache();
  manual_seed(4);
  Linear layer(64, 64, false);
  optim::Sgd sgd(layer.named_parameters(), {.lr = 1});
  const Tensor x = ones({1, 64});
  const NoGrad no_grad;
  const auto run = [&] {
    const Autocast guard(Precision::bf16);
    return layer(x).values<BFloat16>();
  };
  const int64_t before = live();
  const auto first = run();
  EXPECT_EQ(live() - before, 64 * 64 * 2);  // the copy stays
  run();
  EXPECT_EQ(live() - before, 64 * 64 * 2);
  layer.weight.set_grad(ones({64, 64}));
  sgd.step();  // writes the weight: the copy must follow
  const auto second = run();
  EXPECT_NEAR(float(second[0]), float(first[0]) - 64, 0.5);
  EXPECT_EQ(live() - before, 64 * 64 * 2);
  { const Autocast unused(Precision::bf16); }  // nobody asks for it
  EXPECT_EQ(live() - before, 64 * 64 * 2);     // the optimizer's; the thread's went when it came
}

TEST(Autocast, CopiesServeTwoForwardPassesAndBothBackwards) {
  Linear layer(4, 4, false);
  const Tensor x = ones({2, 4});
  Tensor a, b;
  {
    const Autocast guard(Precision::bf16);
    a = sum(layer(x));
    b = sum(layer(x)) + sum(layer(x));
  }
  backward(a);
  const float once = layer.weight.grad().values<float>()[0];
  EXPECT_EQ(once, 2);
  backward(b);
  EXPECT_EQ(layer.weight.grad().values<float>()[0], 3 * once);
}

TEST(Autocast, ACopyIsOfOneTensorAndOneType) {
  const NoGrad no_grad;
  const Tensor x = ones({1, 2});
  Tensor w = ones({1, 2}).requires_grad(true);
  const Autocast outer(Precision::bf16);
  EXPECT_EQ(linear(x, w).dtype(), DType::bf16);
  {
    const Autocast inner(Precision::fp16);
    EXPECT_EQ(linear(x, w).dtype(), DType::f16);
  }
  EXPECT_EQ(linear(x, w).dtype(), DType::bf16);
  w.mut().as<float>()[0] = 5;
  EXPECT_EQ(float(linear(x, w).values<BFloat16>()[0]), 6);
  w.rebind(Tensor::zeros({1, 2}));
  EXPECT_EQ(float(linear(x, w).values<BFloat16>()[0]), 6);
  Tensor column = w.alias({2, 1}).requires_grad(true);  // another tensor in the same memory
  EXPECT_EQ(matmul(x, column).shape(), Shape({1, 1}));
  w.mut().as<float>()[0] = 1 + 0x1p-9f;  // fits f16, not bf16
  EXPECT_EQ(float(linear(x, w).values<BFloat16>()[0]), 2);
  const Autocast inner(Precision::fp16);
  EXPECT_EQ(float(linear(x, w).values<Half>()[0]), 2 + 0x1p-9f);
}

TEST(Autocast, NamesOfPrecisions) {
  for (Precision p : {Precision::no, Precision::bf16, Precision::fp16})
    EXPECT_EQ(parse_precision(name_of(p)), p);
  EXPECT_THAT(error_text(ErrorKind::usage, [] { parse_precision("fp8"); }),
              HasSubstr("expected no, bf16 or fp16, got 'fp8'"));
  EXPECT_THAT(error_text(ErrorKind::internal, [] { Autocast guard(static_cast<Precision>(9)); }),
              HasSubstr("Autocast: expected a Precision, got 9"));
}

}  // namespace
}  // namespace pinion::nn
