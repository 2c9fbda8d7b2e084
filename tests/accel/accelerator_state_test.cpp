// SPDX-License-Identifier: Apache-2.0
// A run that is saved and loaded goes on bit by bit as the one that did not stop: in the middle of
// an epoch, of an accumulation window, with loss scaling and a schedule, on one rank and two.
#include <gmock/gmock.h>

#include "accelerator_testing.h"
#include "pinion/nn/layers.h"
#include "pinion/optim/schedule.h"
#include "pinion/runtime/fs.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::HasSubstr;

// Something of the program's own that goes along.
struct Count final : Checkpointable {
  int64_t n = 0;
  State state() override {
    State out;
    out.put("n", n);
    return out;
  }
  void load_state(const State& state) override { n = state.integer("n"); }
};

constexpr int kBatches = 7;  // 50 samples on two ranks, batches of 4

// One process of a run of three epochs, which saves after `save_at` micro-batches (counted over the
// epochs; -1: never), stops after `stop_at`, and begins by loading when `load` says so.
struct Process {
  std::string root;
  int64_t steps = 1;
  nn::Precision precision = nn::Precision::no;
  int save_at = -1, stop_at = 1000;
  bool load = false;
};

std::vector<float> run(dist::ProcessGroup& group, const Process& p) {
  Accelerator a({.mixed_precision = p.precision,
                 .gradient_accumulation_steps = p.steps,
                 .even_batches = false,
                 .sync_with_dataloader = false,  // windows that reach over epochs
                 .checkpoints = {.root = p.root},
                 .group = &group});
  Line line;
  optim::Adam adam(line.named_parameters(), {.lr = 0.05});
  optim::Scheduler decay(adam, optim::step_lr(3, 0.8));
  DataLoader data(line_data(50), {.batch_size = 4, .shuffle = true, .workers = 1, .seed = 5});
  Count count;
  a.register_for_checkpointing(count);
  auto [model, optimizer, schedule, loader] = a.prepare(line, adam, decay, data);
  if (p.load) a.load_state();
  for (int64_t epoch = loader->state().epoch; epoch < 3; ++epoch)
    for (auto& [x, y] : loader) {
      {
        const auto micro_batch = a.accumulate(model);
        a.backward(nn::mse_loss(model(x), y));
        optimizer.step();
        schedule.step();
        optimizer.zero_grad();
      }
      ++count.n;
      if (count.n == p.save_at) a.save_state();
      if (count.n == p.stop_at) return {};
    }
  EXPECT_EQ(count.n, 3 * kBatches);
  std::vector<float> out = {line.a.values<float>()[0], line.b.values<float>()[0]};
  for (const nn::NamedTensor& t : adam.state()) out.push_back(static_cast<float>(t.tensor.item()));
  out.push_back(static_cast<float>(a.scaler().scale()));
  return out;
}

TEST(AcceleratorState, GoesOnBitByBit) {
  for (const nn::Precision precision : {nn::Precision::no, nn::Precision::fp16}) {
    for (const int64_t steps : {1, 4}) {
      Process p{.steps = steps, .precision = precision};
      const auto whole = on_ranks(2, [&](dist::ProcessGroup& g) {
        const TempDir dir;
        Process mine = p;
        mine.root = dir.path();
        return run(g, mine);
      });
      EXPECT_EQ(whole[0], whole[1]);
      for (const int at : {1, 3, 7, 8, 13}) {
        SCOPED_TRACE(testing::Message() << "windows of " << steps << ", saved after " << at);
        const TempDir dir;
        p.root = dir.path();
        p.load = false, p.save_at = at, p.stop_at = at + 2;
        on_ranks(2, [&](dist::ProcessGroup& g) { return run(g, p); });
        p.load = true, p.save_at = -1, p.stop_at = 1000;
        EXPECT_EQ(on_ranks(2, [&](dist::ProcessGroup& g) { return run(g, p); }), whole);
      }
    }
  }
}

TEST(AcceleratorState, LoadingNothingIsAnError) {
  const TempDir dir;
  const auto groups = dist::make_local_groups(1);
  Accelerator a({.project_dir = dir.path(), .group = groups[0].get()});
  EXPECT_EQ(error_of([&] { a.load_state(); }).kind(), ErrorKind::checkpoint);
  EXPECT_THAT(error_of([&] { a.save_state(); }).what(), HasSubstr("expected prepare() first"));
  Line line;
  optim::Sgd sgd(line.named_parameters());
  a.prepare(line, sgd);
  EXPECT_FALSE(a.resume_state());
  const Error e = error_of([&] { a.load_state(); });
  EXPECT_EQ(e.kind(), ErrorKind::checkpoint);
  EXPECT_THAT(e.what(), HasSubstr("found none"));
  const std::string saved = a.save_state();
  EXPECT_EQ(saved, dir.path() + "/checkpoints/step-0");
  a.load_state(saved);
  a.load_state(saved + "/");
  EXPECT_TRUE(a.resume_state());
}

TEST(AcceleratorState, SavesAModelThatOthersRead) {
  const TempDir dir;
  dist::run_local(2, [&](dist::ProcessGroup& group) {
    Accelerator a({.group = &group});
    Line line;
    auto model = a.prepare(line);
    a.save_model(model, dir.path() + "/model");
    EXPECT_TRUE(exists(dir.path() + "/model/model.safetensors"));
    EXPECT_EQ(a.get_state_dict(model).size(), 2u);
  });
}

}  // namespace
}  // namespace pinion::accel
