// SPDX-License-Identifier: Apache-2.0
// ZeRO in the Accelerator: the loop of plain data parallelism, with the same weights at every stage
// under clipping and loss scaling, saved and resumed. (rank_table_test: numbers of ranks, windows.)
#include <gmock/gmock.h>

#include <cmath>

#include "accelerator_testing.h"
#include "pinion/nn/layers.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::HasSubstr;
using Weights = std::vector<float>;

struct Net final : nn::Module {
  nn::Linear first{1, 150}, second{150, 1};  // ranks share out what has more than 64 elements
  Net() {
    for (nn::Linear* layer : {&first, &second})
      for (Tensor* t : {&layer->weight, &layer->bias}) {
        std::vector<float> values(static_cast<size_t>(t->numel()));
        for (size_t i = 0; i < values.size(); ++i)
          values[i] = 0.1f * std::sin(static_cast<float>(i + 7 * values.size()));
        t->copy_(Tensor::of(values, t->shape()));
      }
  }
  Tensor operator()(const Tensor& x) const { return second(nn::relu(first(x))); }
  void fields(nn::Fields& f) override { f("first", first), f("second", second); }
};

struct Job {
  int stage = 0, ranks = 2;
  int64_t steps = 1;  // micro-batches in a window
  double clip = 0;
  nn::Precision precision = nn::Precision::no;
  bool units = false;  // the layers are units instead of the model
  std::string root{};
  int save_at = -1, stop_at = 1000;    // after so many micro-batches
  bool load = false, elastic = false;  // elastic: of a run on other ranks, perhaps
  bool two_losses = false;             // in every micro-batch
};

Weights weights_of(Accelerator& a, Net& net) {
  const auto whole = a.summon_full_params();
  Weights out;
  for (const Tensor& t : net.parameters()) {
    const auto values = t.values<float>();
    out.insert(out.end(), values.begin(), values.end());
  }
  return out;
}

// Two epochs of 50 samples, which no number of ranks and micro-batches divides.
Weights train(dist::ProcessGroup& group, const Job& r) {
  Net net;
  AcceleratorOptions options{.mixed_precision = r.precision,
                             .gradient_accumulation_steps = r.steps,
                             .even_batches = false,
                             .zero_stage = r.stage,
                             .zero = {.bucket_bytes = 80, .persistent_elements = 0},
                             .checkpoints = {.root = r.root, .allow_world_size_change = r.elastic},
                             .group = &group};
  if (r.units) options.zero.units = {&net.first, &net.second};
  Accelerator a(options);
  optim::Adam adam(net.named_parameters(), {.lr = 0.02});
  DataLoader data(line_data(50),
                  {.batch_size = 16 / r.ranks / r.steps, .shuffle = true, .seed = 5});
  auto [optimizer, model, loader] = a.prepare(adam, net, data);
  if (r.load) a.load_state();
  int count = 0;
  for (int64_t epoch = loader->state().epoch; epoch < 2; ++epoch)
    for (auto& [x, y] : loader) {
      {
        const auto micro_batch = a.accumulate(model);
        const auto forward = [&, &input = x] {
          if (!r.units) return model(input);
          const Tensor h = a.run_unit(net.first, [&] { return nn::relu(net.first(input)); });
          return a.run_unit(net.second, [&] { return net.second(h); });
        };
        if (r.two_losses) a.backward(nn::mse_loss(forward(), y) * 0.25);
        a.backward(nn::mse_loss(forward(), y) * (r.two_losses ? 0.75 : 1.0));
        if (r.clip > 0) a.clip_grad_norm_(optimizer, r.clip);
        optimizer.step();
        optimizer.zero_grad();
      }
      ++count;
      if (count == r.save_at) a.save_state();
      if (count == r.stop_at) return {};
    }
  return weights_of(a, net);
}

Weights train(const Job& job) {
  const auto all = on_ranks(job.ranks, [&](dist::ProcessGroup& g) { return train(g, job); });
  for (const Weights& other : all) EXPECT_EQ(other, all[0]);
  return all[0];
}

double distance(const Weights& a, const Weights& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    most = std::max(most, static_cast<double>(std::fabs(a[i] - b[i])));
  return most;
}

TEST(AcceleratorZero, ClipsScalesAndTakesUnitsAndSeveralLosses) {
  Job jobs[] = {{.steps = 4, .clip = 0.5},
                {.steps = 2, .clip = 0.5, .precision = nn::Precision::fp16},
                {.steps = 2, .precision = nn::Precision::bf16},
                {.steps = 2, .units = true},
                {.steps = 2, .two_losses = true}};
  for (Job& job : jobs) {
    job.stage = 0;
    const Weights plain = train(job);
    for (job.stage = 1; job.stage <= 3; ++job.stage) {
      SCOPED_TRACE(testing::Message() << "job " << &job - jobs << ", stage " << job.stage);
      EXPECT_LE(distance(train(job), plain), 1e-6);
    }
  }
}

TEST(AcceleratorZero, ResumesBitByBit) {
  for (const int stage : {1, 2, 3})
    for (const int64_t steps : {1, 4}) {
      TempDir dir;
      Job job{.stage = stage, .steps = steps, .root = dir.path()};
      const Weights whole = train(job);
      const int windows = 3;  // and two micro-batches of the next one
      job.save_at = static_cast<int>(windows * steps) - (steps > 1 ? 2 : 0);
      job.stop_at = job.save_at + 2;
      train(job);
      job.save_at = -1, job.stop_at = 1000, job.load = true;
      EXPECT_EQ(train(job), whole) << "stage " << stage << ", windows of " << steps;
    }
}

// Between two updates a checkpoint has no stage. (The number of ranks is part of the order of sums,
// so that only a run on as many goes on bit by bit.)
TEST(AcceleratorZero, AnyStageOnAnyRanksLoadsAnyOther) {
  const Weights plain = train({.stage = 0}), alone = train({.stage = 0, .ranks = 1});
  for (const int from : {0, 1, 2, 3}) {
    TempDir dir;
    train({.stage = from, .root = dir.path(), .save_at = 2, .stop_at = 2});
    for (const int to : {0, 1, 2, 3})
      for (const int ranks : {1, 2, 4}) {
        SCOPED_TRACE(testing::Message() << "stage " << from << " to " << to << " on " << ranks);
        const Weights got =
            train({.stage = to, .ranks = ranks, .root = dir.path(), .load = true, .elastic = true});
        if (ranks == 2) {
          EXPECT_EQ(got, plain);
        }
        EXPECT_LE(distance(got, plain), 1e-6);
      }
  }
}

// In the middle of a window every rank has gradients of its own: whole ones at stages 0 and 1, sums
// of pieces at 2 and 3.
TEST(AcceleratorZero, InAWindowOnlyTheSameGradientsLoad) {
  const Weights plain = train({.stage = 0, .steps = 4}), sums = train({.stage = 2, .steps = 4});
  for (const int from : {0, 1, 2, 3}) {
    TempDir dir;
    const Job saved{.steps = 4, .root = dir.path(), .load = true, .elastic = true};
    train({.stage = from, .steps = 4, .root = dir.path(), .save_at = 6, .stop_at = 6});
    for (const int to : {0, 1, 2, 3}) {
      SCOPED_TRACE(testing::Message() << "stage " << from << " to " << to);
      Job job = saved;
      job.stage = to;
      if (from == to || (from < 2 && to < 2)) {
        EXPECT_EQ(train(job), to < 2 ? plain : sums);
        continue;
      }
      const Error e = error_of([&] { train(job); });
      EXPECT_EQ(e.kind(), ErrorKind::checkpoint);
      EXPECT_THAT(e.what(), HasSubstr("'gradients'"));
      EXPECT_THAT(e.what(), HasSubstr("save after an update"));
    }
    Job other = saved;
    other.stage = from, other.ranks = 4;
    EXPECT_THAT(error_of([&] { train(other); }).what(), HasSubstr("cannot be read by 4"));
    other.ranks = 2, other.units = true;  // another layout, if there are pieces
    if (from == 3) {
      EXPECT_THAT(error_of([&] { train(other); }).what(), HasSubstr("other units"));
    }
  }
}

TEST(AcceleratorZero, SavesWholeModels) {
  const TempDir dir;
  dist::run_local(2, [&](dist::ProcessGroup& group) {
    Accelerator a({.zero_stage = 3, .zero = {.persistent_elements = 0}, .group = &group});
    Net net;
    const auto before = net.first.weight.clone().values<float>();
    optim::Adam adam(net.named_parameters());
    auto [model, optimizer] = a.prepare(net, adam);
    for (const nn::NamedTensor& t : a.get_state_dict(model))
      if (t.name == "first.weight") {
        EXPECT_EQ(t.tensor.values<float>(), before);
      }
    a.save_model(model, dir.path());
    const NoGrad no_grad;
    EXPECT_EQ(model(Tensor::zeros({2, 1})).shape(), (Shape{2, 1}));  // evaluation gathers too
  });
  const SafetensorsReader file(dir.path() + "/model.safetensors");
  EXPECT_EQ(file.load(*file.find("first.weight")).values<float>(),
            Net().first.weight.values<float>());
}

TEST(AcceleratorZero, RefusesWhatItCannotDo) {
  const auto groups = dist::make_local_groups(1);
  const Error stage = error_of([&] { Accelerator a({.zero_stage = 4, .group = groups[0].get()}); });
  EXPECT_EQ(stage.kind(), ErrorKind::config);
  EXPECT_THAT(stage.what(), HasSubstr("expected zero_stage 0 to 3, got 4"));
  Accelerator first({.zero_stage = 1, .group = groups[0].get()});
  EXPECT_THAT(error_of([&] { Accelerator a({.zero_stage = 2, .group = groups[0].get()}); }).what(),
              HasSubstr("the zero_stage of the one that is there already, 1, got 2"));
  const Error unknown = error_of([] {
    dist::run_local(2, [](dist::ProcessGroup& group) {
      Accelerator a({.zero_stage = 2, .group = &group});
      Net net;
      optim::Adam adam(net.named_parameters());
      (void)a.prepare(adam);
      a.backward(nn::mse_loss(net(Tensor::zeros({2, 1})), Tensor::zeros({2, 1})));
    });
  });
  EXPECT_THAT(unknown.what(), HasSubstr("models of every prepared optimizer"));
}

}  // namespace
}  // namespace pinion::accel
