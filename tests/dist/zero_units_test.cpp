// SPDX-License-Identifier: Apache-2.0
// Blocks of every kind of layer as units of ZeRO, stage 3: what an op keeps for its backward pass
// must not be where parameters were in the forward pass.
#include <gtest/gtest.h>

#include <cmath>

#include "pinion/dist/group/local_group.h"
#include "pinion/dist/zero/zero.h"
#include "pinion/nn/attention.h"
#include "pinion/nn/init.h"
#include "pinion/nn/layers_image.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"

namespace pinion::dist {
namespace {

struct UnitBlock : nn::Module {
  nn::LayerNorm norm1{16}, norm2{16};
  nn::MultiHeadAttention attention{16, 2};
  nn::Conv2d conv{16, 16, 3, {.padding = 1}};
  nn::BatchNorm2d batch_norm{16};
  nn::Linear up{16, 32}, down{32, 16};

  // [2,4,16] -> [2,4,16]
  Tensor operator()(const Tensor& x) {
    Tensor h = x + attention(norm1(x));
    h = h + nn::reshape(batch_norm(conv(nn::reshape(h, {2, 2, 2, 16}))), h.shape());
    return h + down(up(norm2(h), Activation::relu));
  }
  void fields(nn::Fields& f) override {
    f("norm1", norm1);
    f("norm2", norm2);
    f("attention", attention);
    f("conv", conv);
    f("batch_norm", batch_norm);
    f("up", up);
    f("down", down);
  }
};

struct UnitModel : nn::Module {
  std::vector<UnitBlock> blocks;
  nn::Linear head{16, 3};

  UnitModel() {
    for (int i = 0; i < 3; ++i) blocks.emplace_back();
  }
  void fields(nn::Fields& f) override {
    f("blocks", blocks);
    f("head", head);
  }
};

Tensor waves(const Shape& shape, int phase) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::sin(0.7F * static_cast<float>(i) + static_cast<float>(phase));
  return Tensor::of(values, shape);
}

// All parameters of rank 0 after two steps, one after the other.
std::vector<float> trained(int ranks, int stage) {
  std::vector<float> out;
  manual_seed(3);  // of the process: ranks that are threads build equal models
  run_local(ranks, [&](ProcessGroup& group) {
    UnitModel model;
    optim::Sgd sgd(model.named_parameters(), {.lr = 0.1});
    ZeroOptions options{.stage = stage, .units = {}, .persistent_elements = 0};
    for (UnitBlock& block : model.blocks) options.units.push_back(&block);
    Zero zero(model, sgd, group, options);
    for (int step = 0; step < 2; ++step) {
      Tensor h = waves({2, 4, 16}, step);
      const Tensor target = waves({2, 4, 3}, step + 5);
      for (UnitBlock& block : model.blocks) h = zero.run(block, [&] { return block(h); });
      backward(nn::mse_loss(model.head(h), target));
      sgd.step();
      sgd.zero_grad();
    }
    const Zero::Whole whole(zero);
    if (group.rank() == 0)
      for (const Tensor& p : model.parameters()) {
        const auto values = p.values<float>();
        out.insert(out.end(), values.begin(), values.end());
      }
    group.barrier().wait();
  });
  return out;
}

TEST(ZeroUnits, GoBackOverParametersThatWereGatheredAnew) {
  for (const int ranks : {2, 3}) EXPECT_EQ(trained(ranks, 3), trained(ranks, 1)) << ranks;
}

}  // namespace
}  // namespace pinion::dist
