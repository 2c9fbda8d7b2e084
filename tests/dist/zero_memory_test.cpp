// SPDX-License-Identifier: Apache-2.0
// ZeRO's memory: the books of one rank of N against the algebra of the stages. The rank is alone in
// the process, in a group that plays the others.
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace pinion::dist
