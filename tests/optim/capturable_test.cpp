// SPDX-License-Identifier: Apache-2.0
// Capturable optimizers and scalers: deciding in the device's memory gives what deciding on the
// host gives, bit for bit. On a CUDA device: cuda_graph_test.
#include <gmock/gmock.h>

#include <cmath>

#include "pinion/kernels/kernels.h"
#include "pinion/kernels/philox.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/clip.h"
#include "pinion/optim/grad_scaler.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/event.h"
#include "pinion/runtime/graph.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::optim {
namespace {

using testing::error_text;
using ::testing::HasSubstr;

struct Problem {
  Tensor a = Tensor::full({3, 5}, 0.5).requires_grad(true);
  Tensor b = Tensor::full({7}, -1).requires_grad(true);
  std::vector<nn::NamedTensor> parameters() { return {{"a", a}, {"b", b}}; }

  // Gradients of the loss times `scale`, now and then with an infinity among them.
  void gradients(uint64_t step, double scale) {
    for (Tensor* p : {&a, &b}) {
      Tensor g(p->shape());
      on({}, [&](auto& ctx) {
        kernels::normal(ctx, g.mut(), {1, p == &a ? 1u : 2u, step}, 0, 3 * scale);
      });
      if (step % 7 == 3 && p == &b) g.mut().as<float>()[2] = step % 2 ? INFINITY : NAN;
      p->set_grad(g);
    }
  }
  std::vector<float> values() const {
    std::vector<float> all = a.values<float>();
    for (const float v : b.values<float>()) all.push_back(v);
    return all;
  }
};

constexpr GradScalerOptions kScaler{.init_scale = 4096, .growth_interval = 3};

template <class Opt, class Options>
void expect_the_same(const Options& options, bool clip) {
  Problem host, device;
  Opt on_host(host.parameters(), options), on_device(device.parameters(), options);
  GradScaler host_scaler(kScaler), device_scaler(kScaler);
  on_device.make_capturable();
  device_scaler.make_capturable({});
  for (uint64_t step = 0; step < 40; ++step) {
    if (step == 20)
      for (Opt* o : {&on_host, &on_device}) o->set_lr(0, 0.01);
    host.gradients(step, host_scaler.scale());
    device.gradients(step, device_scaler.scale());
    host_scaler.unscale_(on_host);
    double norm = NAN;
    if (clip) norm = clip_grad_norm_(on_host, 2);
    const bool stepped = host_scaler.step(on_host);
    host_scaler.update();
    on_host.zero_grad();

    device_scaler.unscale_(on_device);
    if (clip) on_device.limit_norm(2);
    device_scaler.step(on_device);
    device_scaler.update();
    on_device.zero_grad();

    ASSERT_EQ(device.values(), host.values()) << "step " << step;
    ASSERT_EQ(on_device.step_was_skipped(), !stepped);
    ASSERT_EQ(device_scaler.scale(), host_scaler.scale());
    ASSERT_EQ(device_scaler.growth_tracker(), host_scaler.growth_tracker());
    ASSERT_EQ(device_scaler.skips(), host_scaler.skips());
    if (clip && stepped) {
      ASSERT_EQ(on_device.grad_norm(), norm);
    }
  }
  const std::vector<nn::NamedTensor> want = on_host.state(), got = on_device.state();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].name, want[i].name);
    EXPECT_EQ(nn::cast(got[i].tensor, DType::f64).values<double>(),
              nn::cast(want[i].tensor, DType::f64).values<double>())
        << want[i].name;
  }
}

TEST(Capturable, AdamDecidesAsOnTheHost) {
  for (const bool clip : {false, true})
    expect_the_same<Adam>(AdamOptions{.lr = 0.05, .weight_decay = 0.1, .amsgrad = clip}, clip);
}
TEST(Capturable, AdamWDecidesAsOnTheHost) {
  expect_the_same<AdamW>(AdamWOptions{.lr = 0.05}, true);
}
TEST(Capturable, SgdDecidesAsOnTheHost) {
  for (const double momentum : {0.0, 0.9})
    expect_the_same<Sgd>(SgdOptions{.lr = 0.05, .momentum = momentum, .dampening = 0.2}, true);
}

TEST(Capturable, ResumesFromItsState) {
  Problem first, second;
  Adam one(first.parameters(), {.lr = 0.05}), two(second.parameters(), {.lr = 0.9});
  one.make_capturable();
  two.make_capturable();
  const auto step = [](Problem& p, Adam& optimizer, uint64_t at) {
    p.gradients(at, 1);
    optimizer.step();
    optimizer.zero_grad();
  };
  for (uint64_t i = 0; i < 3; ++i) step(first, one, i);
  second.a.copy_(first.a.detach());
  second.b.copy_(first.b.detach());
  two.load_state(one.state());
  for (uint64_t i = 4; i < 7; ++i) step(first, one, i), step(second, two, i);
  EXPECT_EQ(second.values(), first.values());
}

TEST(Capturable, TooManySkipsAreAnErrorWhereTheScaleIsRead) {
  Problem p;
  Adam adam(p.parameters(), {});
  adam.make_capturable();
  GradScaler scaler({.init_scale = 1024, .max_skips = 3});
  scaler.make_capturable({});
  for (int i = 1; i <= 3; ++i) {
    if (i > 1) {
      EXPECT_EQ(scaler.scale(), i == 2 ? 512 : 256);
    }
    p.gradients(3, scaler.scale());  // with an infinity
    scaler.step(adam);
    scaler.update();
    adam.zero_grad();
  }
  EXPECT_EQ(scaler.skips(), 3);
  EXPECT_THAT(error_text(ErrorKind::non_finite, [&] { (void)scaler.scale(); }),
              HasSubstr("got 3 iterations in a row with infinities or NaN, down to scale 128"));
}

TEST(Capturable, NamesWhatIsWrong) {
  Problem p;
  Adam adam(p.parameters(), {});
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { adam.limit_norm(1); }),
              HasSubstr("expects a capturable optimizer"));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { (void)adam.grad_norm(); }),
              HasSubstr("capturable optimizer"));
  adam.make_capturable();
  p.a.set_grad(Tensor::full(p.a.shape(), 1));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { adam.step(); }),
              HasSubstr("a gradient of every parameter"));
  p.gradients(0, 1);
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { adam.step(2); }),
              HasSubstr("got grad_scale 2"));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { (void)clip_grad_norm_(adam, 0.1); }),
              HasSubstr("use limit_norm()"));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { adam.limit_norm(-1); }),
              HasSubstr("max_norm >= 0, got -1"));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { adam.divide_by(Tensor::zeros({2})); }),
              HasSubstr("one f32 on cpu"));
}

// Without a device a step runs as it is, every time.
TEST(Capturable, StepGraphsRunStepsOnTheCpu) {
  StepGraphs graphs({});
  int runs = 0;
  for (int i = 0; i < 4; ++i)
    graphs.run("step", [&] {
      EXPECT_FALSE(recording());
      ++runs;
    });
  EXPECT_EQ(runs, 4);
  EXPECT_THAT(error_text(ErrorKind::internal, [] { const Graph graph{Device{}}; }),
              HasSubstr("expected a CUDA device, got cpu"));
}

TEST(Capturable, EventsOfTheCpuTakeTimes) {
  Event before({}), after({});
  before.record();
  after.record();
  EXPECT_TRUE(after.reached());
  after.synchronize();
  EXPECT_GE(after.milliseconds_since(before), 0);
}

}  // namespace
}  // namespace pinion::optim
