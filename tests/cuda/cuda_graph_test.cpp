// SPDX-License-Identifier: Apache-2.0
// Recorded steps on a CUDA device, a GPU or the simulator: a replay does what the step would have
// done, asks for no memory and does not wait.
#include "pinion/accel/track/metrics.h"
#include "pinion/kernels/cuda/backend.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/clip.h"
#include "pinion/optim/grad_scaler.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/event.h"
#include "pinion/runtime/graph.h"
#include "pinion/tests/nn/low_precision_testing.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

constexpr int64_t kRows = 24;

Tensor features(uint64_t step) {
  Tensor x({kRows, 10});
  on({}, [&](auto& ctx) { kernels::normal(ctx, x.mut(), {3, 1, step}, 0, 1); });
  return x;
}
Tensor classes(uint64_t step) {
  std::vector<int64_t> y;
  for (int64_t r = 0; r < kRows; ++r) y.push_back((r * 5 + static_cast<int64_t>(step)) % 3);
  return Tensor::of(y, {kRows});
}

struct Net : nn::Module {
  nn::Linear first{10, 32}, second{32, 3};
  nn::Dropout noise{0.25};
  Tensor operator()(const Tensor& x) { return second(noise(first(x, Activation::relu))); }
  void fields(nn::Fields& f) override {
    f("first", first);
    f("second", second);
    f("noise", noise);
  }
};

// A model, its optimizer and scaler on a device, and the step that trains it. Inputs are tensors
// that stay where they are.
template <class Opt>
struct Trainer {
  Net model;
  Opt optimizer;
  optim::GradScaler scaler{{.init_scale = 1024, .growth_interval = 4}};
  Tensor x{{kRows, 10}, DType::f32, kCuda}, y{{kRows}, DType::i64, kCuda};
  Tensor loss;

  template <class Options>
  explicit Trainer(const Options& options)
      : model(seeded_model()), optimizer(model.named_parameters(), options) {
    optimizer.make_capturable();
    scaler.make_capturable(kCuda);
  }
  static Net seeded_model() {
    manual_seed(5);
    Net net;
    net.to(kCuda);
    return net;
  }
  void feed(uint64_t step) {
    const Tensor data = features(step), labels = classes(step);
    copy(kCuda, x.mut().data, {}, data.view().data, data.numel() * size_of(DType::f32));
    copy(kCuda, y.mut().data, {}, labels.view().data, labels.numel() * size_of(DType::i64));
  }
  void step() {
    loss = nn::cross_entropy(model(x), y);
    backward(scaler.scale(loss));
    scaler.unscale_(optimizer);
    optimizer.limit_norm(0.5);
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
  }
};

using Floats = std::vector<float>;
Floats parameters_of(nn::Module& model) {
  Floats all;
  for (const Tensor& p : model.parameters())
    for (const float v : p.detach().to(kCpu).values<float>()) all.push_back(v);
  return all;
}

class CudaGraph : public CudaKernels {};

template <class Opt, class Options>
void expect_replays_like_steps(const Options& options) {
  constexpr uint64_t kSteps = 12;
  Trainer<Opt> stepped(options), replayed(options);
  StepGraphs graphs(kCuda);
  for (uint64_t step = 0; step < kSteps; ++step) {
    if (step == 7) stepped.optimizer.set_lr(0, 0.02), replayed.optimizer.set_lr(0, 0.02);
    stepped.feed(step);
    stepped.step();
    replayed.feed(step);
    graphs.run("step", [&] { replayed.step(); });
    ASSERT_EQ(replayed.loss.to(kCpu).item(), stepped.loss.to(kCpu).item()) << "step " << step;
  }
  EXPECT_EQ(parameters_of(replayed.model), parameters_of(stepped.model));
  EXPECT_EQ(replayed.scaler.scale(), stepped.scaler.scale());
  EXPECT_EQ(replayed.scaler.scale(), 1024 * 8);  // 12 steps, growing every 4
  EXPECT_EQ(replayed.optimizer.grad_norm(), stepped.optimizer.grad_norm());
  const auto state = replayed.optimizer.state();
  for (const nn::NamedTensor& t : state) {
    if (t.name.starts_with("step.")) {
      EXPECT_EQ(t.tensor.view().as<int64_t>()[0], int64_t{kSteps}) << t.name;
    }
  }
  // What the host counts has moved on as well: the next step draws the same noise.
  stepped.step();
  replayed.step();
  EXPECT_EQ(replayed.loss.to(kCpu).item(), stepped.loss.to(kCpu).item());
}

TEST_F(CudaGraph, ReplaysWithAdamAreTheStepsBitForBit) {
  expect_replays_like_steps<optim::Adam>(optim::AdamOptions{.lr = 0.05, .amsgrad = true});
}
TEST_F(CudaGraph, ReplaysWithSgdAreTheStepsBitForBit) {
  expect_replays_like_steps<optim::Sgd>(
      optim::SgdOptions{.lr = 0.05, .momentum = 0.9, .nesterov = true});
}

// The copies that autocast reads are written by the recorded step, and brought up to date where
// weights were loaded between replays. An evaluation in between sees the weights of its time.
TEST_F(CudaGraph, ReplaysUnderAutocastAreTheStepsBitForBit) {
  const optim::AdamOptions options{.lr = 0.05};
  Trainer<optim::Adam> stepped(options), replayed(options);
  StepGraphs graphs(kCuda);
  const auto load = [](Trainer<optim::Adam>& t) {
    for (Tensor p : t.model.parameters()) p.copy_(Tensor::full(p.shape(), 0.03125));
  };
  const auto evaluate = [](Trainer<optim::Adam>& t) {
    const nn::Autocast guard(nn::Precision::bf16);
    const NoGrad no_grad;
    return nn::cross_entropy(t.model.first(t.x), t.y).to(kCpu).item();
  };
  for (uint64_t step = 0; step < 12; ++step) {
    if (step == 5) load(stepped), load(replayed);
    const auto run = [&](Trainer<optim::Adam>& t) {
      const nn::Autocast guard(nn::Precision::bf16);
      t.step();
    };
    stepped.feed(step);
    run(stepped);
    replayed.feed(step);
    graphs.run("step", [&] { run(replayed); });
    ASSERT_EQ(replayed.loss.to(kCpu).item(), stepped.loss.to(kCpu).item()) << "step " << step;
    if (step < 7) continue;
    ASSERT_EQ(evaluate(replayed), evaluate(stepped)) << "step " << step;
  }
  EXPECT_EQ(parameters_of(replayed.model), parameters_of(stepped.model));
  for (const Tensor& p : replayed.model.parameters())
    expect_cast(p, nn::LowPrecisionCopy::find(p, DType::bf16));
}

TEST_F(CudaGraph, LowPrecisionCopiesAreCasts) { expect_copies_are_casts(kCuda); }

TEST_F(CudaGraph, SteadyReplaysOnlyLaunch) {
  Trainer<optim::Adam> t(optim::AdamOptions{});
  StepGraphs graphs(kCuda);
  for (uint64_t step = 0; step < 3; ++step) {
    t.feed(step);
    graphs.run("step", [&] { t.step(); });
  }
  const cuda_backend::Activity before = cuda_backend::activity(0);
  for (int step = 0; step < 5; ++step) graphs.run("step", [&] { t.step(); });
  const cuda_backend::Activity after = cuda_backend::activity(0);
  EXPECT_EQ(after.replays - before.replays, 5);
  EXPECT_EQ(after.launches - before.launches, 0);
  EXPECT_EQ(after.device_calls - before.device_calls, 0);
  EXPECT_EQ(after.waits - before.waits, 0);
}

TEST_F(CudaGraph, InfiniteGradientsAreSkippedOnTheDevice) {
  Trainer<optim::Adam> t(optim::AdamOptions{});
  StepGraphs graphs(kCuda);
  for (uint64_t step = 0; step < 3; ++step) {
    t.feed(step);
    graphs.run("step", [&] { t.step(); });
  }
  const Floats before = parameters_of(t.model);
  on(kCuda, [&](auto& ctx) { kernels::fill(ctx, t.x.mut(), 3e38); });
  graphs.run("step", [&] { t.step(); });
  EXPECT_TRUE(t.optimizer.step_was_skipped());
  EXPECT_EQ(parameters_of(t.model), before);
  EXPECT_EQ(t.scaler.scale(), 512);
  EXPECT_EQ(t.scaler.skips(), 1);
  t.feed(4);
  graphs.run("step", [&] { t.step(); });
  EXPECT_FALSE(t.optimizer.step_was_skipped());
  EXPECT_NE(parameters_of(t.model), before);
  EXPECT_EQ(t.scaler.skips(), 0);
}

TEST_F(CudaGraph, ReadsAndWritesOfTheHostAreRefusedInARecording) {
  Graph graph(kCuda);
  const Tensor x = Tensor::full({4}, 1, DType::f32, kCuda);
  EXPECT_THROW(graph.record([&] { (void)(x + x).to(kCpu); }), Error);
  EXPECT_THROW(graph.record([&] { (void)Tensor::zeros({4}).to(kCuda); }), Error);
  EXPECT_THROW(graph.replay(), Error);
  Tensor y;
  graph.record([&] { y = x + x; });
  graph.replay();
  EXPECT_EQ(y.to(kCpu).values<float>(), (Floats{2, 2, 2, 2}));
  EXPECT_THROW(Graph{kCpu}, Error);
}

TEST_F(CudaGraph, RecordingsKeepTheirMemoryToThemselves) {
  const Tensor one = Tensor::full({1000}, 1, DType::f32, kCuda);
  const int64_t live = memory_stats(kCuda).live;
  Tensor y;
  {
    Graph graph(kCuda);
    graph.record([&] { y = (one + one) * (one + one + one); });
    graph.replay();
    // Others get none of the blocks that replays write.
    std::vector<Tensor> others;
    for (int i = 0; i < 8; ++i) others.push_back(Tensor::full({1000}, 7, DType::f32, kCuda));
    graph.replay();
    for (const Tensor& t : others) EXPECT_EQ(t.to(kCpu).values<float>(), Floats(1000, 7.0f));
    EXPECT_EQ(y.to(kCpu).values<float>(), Floats(1000, 6.0f));
  }
  EXPECT_EQ(y.to(kCpu).values<float>(), Floats(1000, 6.0f));  // outlives its recording
  y = {};
  EXPECT_EQ(memory_stats(kCuda).live, live);
}

TEST_F(CudaGraph, MetricsAddUpInReplays) {
  const Tensor logits = Tensor::of<float>({1, 2, 5, 4, 0, 9}, {3, 2}).to(kCuda);
  const Tensor labels = Tensor::of<int64_t>({1, 0, 0}, {3}).to(kCuda);
  Tensor loss = Tensor::full({}, 0.5, DType::f32, kCuda);
  accel::Mean mean;
  accel::Accuracy accuracy;
  StepGraphs graphs(kCuda);
  for (int step = 0; step < 5; ++step) {
    on(kCuda, [&](auto& ctx) { kernels::fill(ctx, loss.mut(), step); });
    graphs.run("step", [&] { mean.add(loss, 2), accuracy.add(logits, labels); });
    if (step == 0) mean.reset(), accuracy.reset();
  }
  EXPECT_EQ(mean.value(), 2.5);  // of 1, 2, 3, 4
  EXPECT_EQ(accuracy.total(), 12);
  EXPECT_EQ(accuracy.correct(), 8);
  mean.add(0.5, 8);
  EXPECT_EQ(mean.value(), 1.5);
}

TEST_F(CudaGraph, StepsOfDifferentKeysAreKeptApartAndTheOldestLeaves) {
  StepGraphs graphs(kCuda, 2);
  Tensor y;
  const Tensor x = Tensor::full({2}, 1, DType::f32, kCuda);
  for (int round = 0; round < 3; ++round)
    for (double scale = 2; scale < 4; ++scale) {
      graphs.run(cat({"by ", scale}), [&] { y = x * scale; });
      if (round < 1) {
        EXPECT_EQ(y.to(kCpu).values<float>()[0], static_cast<float>(scale));
      }
    }
  EXPECT_EQ(graphs.size(), 2u);
  graphs.run("third", [&] { y = x * 4.0; });
  EXPECT_EQ(graphs.size(), 2u);
  EXPECT_EQ(y.to(kCpu).values<float>()[0], 4);
}

TEST_F(CudaGraph, EventsFollowTheOrderOfTheWork) {
  Event before(kCuda), after(kCuda);
  EXPECT_TRUE(after.reached());
  Tensor x = Tensor::full({1000}, 1, DType::f32, kCuda);
  before.record();
  for (int i = 0; i < 20; ++i) x = x + x;
  after.record();
  after.synchronize();
  EXPECT_TRUE(before.reached());
  EXPECT_TRUE(after.reached());
  EXPECT_GT(after.milliseconds_since(before), 0);
  Event host(kCpu);
  EXPECT_THROW((void)host.milliseconds_since(before), Error);
}

// The ring of pinned buffers goes round many times, and what was handed over may change at once.
TEST_F(CudaGraph, CopiesToTheDeviceDoNotWaitForIt) {
  std::vector<float> values(3 << 19);  // 6 MiB
  Tensor x({static_cast<int64_t>(values.size())}, DType::f32, kCuda);
  for (int round = 0; round < 4; ++round) {
    std::fill(values.begin(), values.end(), static_cast<float>(round));
    values.back() = 0.5f;
    copy(kCuda, x.mut().data, {}, values.data(), x.numel() * size_of(DType::f32));
    std::fill(values.begin(), values.end(), -1.0f);
    const std::vector<float> got = x.to(kCpu).values<float>();
    EXPECT_EQ(std::count(got.begin(), got.end() - 1, static_cast<float>(round)),
              static_cast<std::ptrdiff_t>(got.size() - 1));
    EXPECT_EQ(got.back(), 0.5f);
  }
}

TEST_F(CudaGraph, OutOfMemoryNamesTheBytesAndTheProcessGoesOn) {
  const Tensor kept = Tensor::full({16}, 1, DType::f32, kCuda);
  try {
    const Tensor huge({int64_t{1} << 45}, DType::f32, kCuda);
    FAIL() << "a tensor of 128 TiB";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    const std::string text = e.what();
    for (const char* part : {"cuda:0", "140737488355328 bytes", "free", "at peak by tag:"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_EQ((kept + kept).to(kCpu).values<float>()[15], 2);
}

}  // namespace
}  // namespace pinion::testing
