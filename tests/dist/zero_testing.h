// SPDX-License-Identifier: Apache-2.0
// What the tests of ZeRO train: a small network with a frozen and an unused parameter, plain data
// parallelism to compare with, and a run that is the same loop at every stage.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pinion/dist/group/local_group.h"
#include "pinion/dist/zero/zero.h"
#include "pinion/nn/layers.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/clip.h"
#include "pinion/optim/grad_scaler.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"

namespace pinion::dist {

// Numbers in (-1, 1) that depend on i and the seed alone.
inline float wave(int64_t i, int64_t seed) {
  return std::sin(static_cast<float>((i * 37 + seed * 101) % 1009) * 0.71f);
}

inline Tensor waves(const Shape& shape, int64_t seed, float scale) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = scale * wave(static_cast<int64_t>(i), seed);
  return Tensor::of(values, shape);
}

struct ZeroNet final : nn::Module {
  nn::Linear first{33, 70}, second{70, 51}, third{51, 5};
  Tensor unused = Tensor::full({19}, 2), frozen = Tensor::full({7}, 3);

  // Ranks start with different weights: rank 0's must win.
  explicit ZeroNet(int rank) {
    unused.requires_grad(true);
    int64_t seed = 10 * rank;
    for (nn::Linear* layer : {&first, &second, &third})
      for (Tensor* t : {&layer->weight, &layer->bias}) t->copy_(waves(t->shape(), ++seed, 0.3f));
  }
  void fields(nn::Fields& f) override {
    f("first", first);
    f("unused", unused);
    f("second", second);
    f("frozen", frozen);
    f("third", third);
  }
  std::vector<nn::Module*> units() { return {&first, &second, &third}; }
};

using MakeOptimizer = std::function<std::unique_ptr<optim::Optimizer>(nn::Module&)>;

template <class O, class Options>
MakeOptimizer making(Options options) {
  return [options](nn::Module& m) { return std::make_unique<O>(m.named_parameters(), options); };
}

struct ZeroRun {
  int stage = 0, ranks = 1, steps = 4;
  MakeOptimizer make;
  double clip = 0;         // max_norm; 0: none
  bool scaled = false;     // by a GradScaler
  int infinite_step = -1;  // rank 0's gradients are infinite in this step
  bool prefetch = true;
  bool same_data = false;        // on all ranks
  bool last_bias_skips = false;  // in odd steps rank 0 at most uses the last bias
};

using Named = std::vector<std::pair<std::string, std::vector<float>>>;

struct ZeroOutcome {
  Named params;
  std::vector<float> norms;
  double scale = 0;
};

class ZeroLoop {
 public:
  ZeroLoop(const ZeroRun& run, ProcessGroup& group)
      : run_(run), group_(group), net_(group.rank()), optimizer_(run.make(net_)) {
    if (run.stage > 0)
      shard(run.stage);
    else
      for (const Tensor& p : net_.parameters()) group.broadcast(p, 0).wait();
  }

  void shard(int stage) {
    zero_ = std::make_unique<Zero>(net_, *optimizer_, group_,
                                   ZeroOptions{.stage = stage,
                                               .bucket_bytes = 6000,
                                               .units = net_.units(),
                                               .persistent_elements = 300,
                                               .prefetch = run_.prefetch});
  }

  Tensor forward(const Tensor& x, bool with_bias) {
    const auto unit = [&](nn::Module& m, const std::function<Tensor()>& f) {
      return zero_ ? zero_->run(m, f) : f();
    };
    Tensor h = unit(net_.first, [&] { return net_.first(x, Activation::relu); });
    h = unit(net_.second, [&] { return net_.second(h, Activation::relu); });
    return unit(net_.third, [&] {
      return nn::linear(h, net_.third.weight, with_bias ? net_.third.bias : Tensor());
    });
  }

  void step(int at, ZeroOutcome* result = nullptr) {
    const bool bias =
        !run_.last_bias_skips || at % 2 == 0 || (group_.rank() == 0 && !run_.same_data);
    const Tensor x = waves({4, 33}, 1000 + at * 10 + (run_.same_data ? 0 : group_.rank()), 1);
    Tensor loss = nn::mean(forward(x, bias) * forward(x, bias));
    if (at == run_.infinite_step && group_.rank() == 0) loss = loss * 1e38 * 1e10;
    backward(run_.scaled ? scaler_.scale(loss) : loss);
    if (!zero_) all_reduce();
    if (run_.scaled) scaler_.unscale_(*optimizer_);
    if (run_.clip > 0) {
      const double norm = optim::clip_grad_norm_(*optimizer_, run_.clip);
      if (result) result->norms.push_back(std::isnan(norm) ? -1 : static_cast<float>(norm));
    }
    if (run_.scaled)
      scaler_.step(*optimizer_), scaler_.update();
    else
      optimizer_->step();
    optimizer_->zero_grad();
  }

  Named params() {
    std::unique_ptr<Zero::Whole> whole;
    if (zero_) whole = std::make_unique<Zero::Whole>(*zero_);
    Named out;
    for (const nn::NamedTensor& p : net_.named_parameters())
      out.emplace_back(p.name, p.tensor.values<float>());
    return out;
  }

  // Plain data parallelism: every gradient that some rank has is everybody's mean.
  void all_reduce() {
    for (Tensor p : net_.parameters()) {
      Tensor has = Tensor::full({1}, p.grad().defined() ? 1 : 0);
      group_.all_reduce(has).wait();
      if (has.item() == 0) continue;
      if (!p.grad().defined()) p.set_grad(Tensor::zeros(p.shape()));
      group_.all_reduce(p.grad(), ReduceOp::mean).wait();
    }
  }

  optim::Optimizer& optimizer() { return *optimizer_; }
  Zero* zero() { return zero_.get(); }
  ZeroNet& net() { return net_; }
  double scale() const { return scaler_.scale(); }

 private:
  ZeroRun run_;
  ProcessGroup& group_;
  ZeroNet net_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  std::unique_ptr<Zero> zero_;
  optim::GradScaler scaler_{{.init_scale = 1024}};
};

}  // namespace pinion::dist
