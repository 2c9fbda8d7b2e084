// SPDX-License-Identifier: Apache-2.0
// ZeRO's memory: the books of one rank of N against the algebra of the stages. The rank is alone in
// the process, in a group that plays the others.
#include <gtest/gtest.h>

#include <atomic>

#include "pinion/dist/group/local_group.h"
#include "pinion/dist/zero/zero.h"
#include "pinion/nn/layers.h"
#include "pinion/optim/adam.h"
#include "pinion/runtime/autograd.h"

namespace pinion::dist {
namespace {

// Rank 1 of `size`; the other ranks have zeros.
class OneOfMany final : public ProcessGroup {
 public:
  explicit OneOfMany(int size) : ProcessGroup(1, size) {}
  const char* backend() const override { return "one of many"; }
  void abort(std::string_view) noexcept override {}

 private:
  Work start(Call call) override {
    const Tensor in = call.input.alias({call.input.numel()});
    const Tensor out = call.output.alias({call.output.numel()});
    if (call.operation == Operation::reduce_scatter)
      Tensor(out).copy_(in.rows(out.numel(), 2 * out.numel()));
    if (call.operation == Operation::all_gather) out.rows(in.numel(), 2 * in.numel()).copy_(in);
    return {};
  }
};

constexpr int kLayers = 20, kWidth = 256;
constexpr int64_t kPsi = kLayers * (kWidth * kWidth + kWidth) * 4;  // bytes of the parameters
constexpr int64_t kUnit = kPsi / kLayers;

struct Deep final : nn::Module {
  std::vector<nn::Linear> layers;
  Deep() {
    for (int i = 0; i < kLayers; ++i) layers.emplace_back(kWidth, kWidth);
  }
  void fields(nn::Fields& f) override { f("layers", layers); }
};

struct Peaks {
  int64_t parameters, gradients, optimizer;  // at peak in a step
  int64_t sum() const { return parameters + gradients + optimizer; }
};

int64_t live(MemoryTag tag) { return memory_stats({}, tag).live; }

Peaks measure(int stage, int ranks, bool prefetch) {
  const CpuContextGuard one_thread(1);  // other threads post their books late
  const int64_t before[] = {live(MemoryTag::parameters), live(MemoryTag::gradients),
                            live(MemoryTag::optimizer)};
  OneOfMany group(ranks);
  Deep model;
  optim::Adam adam(model.named_parameters());
  ZeroOptions options;
  options.stage = stage;
  options.bucket_bytes = kUnit;
  options.persistent_elements = 1000;
  options.prefetch = prefetch;
  for (nn::Linear& layer : model.layers) options.units.push_back(&layer);
  Zero zero(model, adam, group, options);
  const Tensor x = Tensor::full({2, kWidth}, 0.5);
  for (int step = 0; step < 3; ++step) {
    if (step > 0) reset_peak({});
    Tensor h = x;
    for (nn::Linear& layer : model.layers)
      h = zero.run(layer, [&] { return layer(h, Activation::relu); });
    backward(nn::mean(h * h));
    adam.step();
    adam.zero_grad();
  }
  const auto peak = [&](MemoryTag tag, int64_t base) { return memory_stats({}, tag).peak - base; };
  return {peak(MemoryTag::parameters, before[0]), peak(MemoryTag::gradients, before[1]),
          peak(MemoryTag::optimizer, before[2])};
}

// Within 5 %.
void expect_near(int64_t measured, double algebra) {
  EXPECT_NEAR(static_cast<double>(measured) / algebra, 1, 0.05)
      << measured << " bytes, expected " << algebra;
}

TEST(ZeroMemory, IsThatOfTheAlgebra) {
  for (const int n : {2, 4, 8}) {
    SCOPED_TRACE(::testing::Message() << n << " ranks");
    const double psi = kPsi, unit = kUnit;  // bytes: four to an element
    const Peaks one = measure(1, n, true);
    expect_near(one.sum(), 2 * psi + 2 * psi / n);
    const Peaks two = measure(2, n, true);
    expect_near(two.sum(), psi + 3 * psi / n + unit);
    const Peaks three = measure(3, n, false);
    expect_near(three.parameters, psi / n + unit);
    expect_near(three.gradients, psi / n + unit);
    expect_near(three.optimizer, 2 * psi / n);
    const Peaks ahead = measure(3, n, true);
    expect_near(ahead.parameters, psi / n + 2 * unit);
  }
}

// One layer is half of the model, as in bench/dp_vs_ddp: its gradient is there once while it is
// made and reduced, and none of another layer beside it.
TEST(ZeroMemory, HoldsOneLargeLayerAtATime) {
  struct Wide final : nn::Module {
    nn::Linear first{512, 1024}, second{1024, 1024}, third{1024, 512};
    void fields(nn::Fields& f) override {
      f("first", first), f("second", second), f("third", third);
    }
  };
  constexpr int kRanks = 2;
  const double psi = 4 * 2 * 1024 * 1024, largest = psi / 2;
  for (const int stage : {2, 3}) {
    const int64_t before = memory_stats({}).live;
    std::atomic<int64_t> peak{0};
    run_local(kRanks, [&](ProcessGroup& group) {
      Wide model;
      optim::Adam adam(model.named_parameters());
      Zero zero(model, adam, group,
                {.stage = stage,
                 .bucket_bytes = 6 << 20,
                 .units = {&model.first, &model.second, &model.third}});
      const Tensor x = Tensor::full({2, 512}, 0.5);
      for (int step = 0; step < 3; ++step) {
        group.barrier().wait();
        if (step > 0 && group.rank() == 0) reset_peak({});
        group.barrier().wait();
        Tensor h = zero.run(model.first, [&] { return model.first(x, Activation::relu); });
        h = zero.run(model.second, [&] { return model.second(h, Activation::relu); });
        h = zero.run(model.third, [&] { return model.third(h); });
        backward(nn::mean(h * h));
        adam.step();
        adam.zero_grad();
      }
      group.barrier().wait();
      if (group.rank() == 0) peak = memory_stats({}).peak - before;
      group.barrier().wait();
    });
    const double whole = stage == 2 ? psi : psi / kRanks + largest;
    EXPECT_LE(static_cast<double>(peak) / kRanks, 1.05 * (whole + 3 * psi / kRanks + largest));
  }
}

}  // namespace
}  // namespace pinion::dist
