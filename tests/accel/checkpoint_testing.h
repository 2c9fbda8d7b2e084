// SPDX-License-Identifier: Apache-2.0
// What tests of checkpoints share: a run small enough to be killed a thousand times, which uses all
// that a resume must restore, and its whole state as bytes.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/accel/checkpoint/parts.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/optim/adam.h"
#include "pinion/runtime/autograd.h"

namespace pinion::accel {

struct TinyModel : nn::Module {
  nn::Linear fc1, fc2;
  nn::Dropout dropout;
  TinyModel() : fc1(4, 8), fc2(8, 2), dropout(0.3) {}
  Tensor operator()(const Tensor& x) { return fc2(dropout(nn::relu(fc1(x)))); }
  void fields(nn::Fields& f) override {
    f("fc1", fc1);
    f("fc2", fc2);
    f("dropout", dropout);
  }
};

inline TensorDataset tiny_data() {
  std::vector<float> x;
  std::vector<int64_t> y;
  for (int i = 0; i < 52; ++i) {
    for (int j = 0; j < 4; ++j) x.push_back(std::sin(static_cast<float>(i * 4 + j)));
    y.push_back(i % 3 == 0);
  }
  return {Tensor::of(x, {52, 4}), Tensor::of(y, {52})};
}

// Steps are micro-batches, three of which make an update: a checkpoint may fall in the middle of an
// accumulation as well as of an epoch.
class TinyRun {
 public:
  static constexpr int64_t kAccumulate = 3;

  explicit TinyRun(uint64_t seed = 7)
      : model((manual_seed(seed), TinyModel())),
        adam(model.named_parameters(), {.lr = 0.01}),
        scheduler(adam, optim::cosine_annealing(20)),
        scaler({.init_scale = 8, .growth_interval = 4}),
        loader(tiny_data(), {.batch_size = 8, .shuffle = true, .seed = 5}) {}

  void add_to(Checkpoints& checkpoints) {
    checkpoints.add("model", model_part, {.weights = true});
    checkpoints.add("optimizer", optimizer_part);
    checkpoints.add("gradients", gradients_part, {.placement = Placement::per_rank});
    checkpoints.add("scheduler", scheduler_part);
    checkpoints.add("scaler", scaler_part);
    checkpoints.add("sampler", loader_part);
    checkpoints.add("random", random_part);
    checkpoints.add("counters", counters_part);
  }

  void step() {
    auto it = loader.begin();
    if (it == loader.end()) it = loader.begin();  // the next epoch
    auto& [x, y] = *it;
    const Tensor loss = nn::cross_entropy(model(x), y);
    backward(scaler.scale(loss / static_cast<double>(kAccumulate)));
    last_loss = loss.item();
    if (++steps % kAccumulate != 0) return;
    if (scaler.step(adam)) scheduler.step();
    scaler.update();
    adam.zero_grad();
  }

  // Everything that later steps depend on.
  std::string bytes() {
    std::string out;
    for (Checkpointable* part : std::initializer_list<Checkpointable*>{
             &model_part, &optimizer_part, &gradients_part, &scheduler_part, &scaler_part,
             &loader_part, &random_part, &counters_part}) {
      const State state = part->state();
      for (const StateTensor& t : state.tensors) {
        out += t.name;
        const ConstView v = t.tensor.view();
        out.append(static_cast<const char*>(v.data),
                   static_cast<size_t>(v.numel() * size_of(v.dtype)));
      }
      for (const auto& [name, value] : state.values) {
        out += name;
        std::visit(
            [&](const auto& v) {
              if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::string>)
                out += v;
              else  // integers of either sign are one type
                out.append(std::to_string(v));
            },
            value);
      }
    }
    return out;
  }

  TinyModel model;
  optim::Adam adam;
  optim::Scheduler scheduler;
  optim::GradScaler scaler;
  DataLoader<TensorDataset> loader;
  int64_t steps = 0;
  double last_loss = 0;

 private:
  State counters() const {
    State out;
    out.put("steps", steps);
    out.put("last_loss", last_loss);
    return out;
  }

  ModelPart model_part{model};
  OptimizerPart optimizer_part{adam};
  GradientsPart gradients_part{adam};
  SchedulerPart scheduler_part{scheduler};
  ScalerPart scaler_part{scaler};
  LoaderPart<DataLoader<TensorDataset>> loader_part{loader};
  RandomPart random_part;
  FunctionPart counters_part{[this] { return counters(); },
                             [this](const State& s) {
                               const double loss = s.real("last_loss");
                               steps = s.integer("steps");
                               last_loss = loss;
                             }};
};

// The bytes of an uninterrupted run after each number of steps, 0 … n.
inline std::vector<std::string> uninterrupted(int64_t n) {
  TinyRun run;
  std::vector<std::string> out{run.bytes()};
  while (run.steps < n) {
    run.step();
    out.push_back(run.bytes());
  }
  return out;
}

}  // namespace pinion::accel
