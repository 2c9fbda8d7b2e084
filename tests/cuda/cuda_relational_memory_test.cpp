// SPDX-License-Identifier: Apache-2.0
// The loop of the relational memory on a CUDA device, a GPU or the simulator, beside the CPU's: the
// result, and everything that is saved or replaced. And a recorded step of a model that has it.
#include <map>

#include "pinion/apps/report/relational_memory.h"
#include "pinion/kernels/relational_memory.h"
#include "pinion/nn/init.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/graph.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

using kernels::RelationalMemoryArgs;

// The operands of a call on both devices, by name.
class Operands {
 public:
  Operands(DType type, int64_t batch, int64_t steps, int64_t slots, int64_t heads, int64_t width,
           double dropout)
      : type_(type) {
    args_ = {batch, steps, slots, heads, width, dropout, {5, 6, 7}};
    const int64_t rows = batch * steps * slots, c = width;
    const auto linear = [&](const std::string& name, int64_t out) {
      add(name, {out, c}, 0.5), add(name + " bias", {out}, 0.5);
    };
    linear("in", 3 * c), linear("out", c), linear("first", c), linear("second", c);
    linear("gates", 2 * c);
    add("words", {batch, steps, 4 * c}), add("memory", {rows + batch * slots, c});
    add("y", {batch, steps, slots * c}), add("dy", {batch, steps, slots * c});
    add("dwords", {batch, steps, 4 * c}), add("projected", {rows, 3 * c});
    add("gated", {rows, 2 * c}), add("probabilities", {rows, 2 * heads * (slots + 1)});
    for (const char* name :
         {"attended", "sum", "hidden", "extra", "tanh_memory", "tanh_next", "dhidden"})
      add(name, {rows, c});
  }

  RelationalMemoryArgs on_device(Device d, bool backward) {
    RelationalMemoryArgs a = args_;
    const auto at = [&](const char* name) { return pairs_.at(name).on_device(d); };
    a.in = {at("in"), at("in bias")}, a.out = {at("out"), at("out bias")};
    a.first = {at("first"), at("first bias")}, a.second = {at("second"), at("second bias")};
    a.gates = {at("gates"), at("gates bias")}, a.words = at("words"), a.memory = at("memory");
    a.projected = at("projected"), a.attended = at("attended"), a.sum = at("sum");
    a.hidden = at("hidden"), a.extra = at("extra"), a.tanh_memory = at("tanh_memory");
    a.gated = at("gated"), a.tanh_next = at("tanh_next"), a.probabilities = at("probabilities");
    a.y = at("y");
    if (backward) a.dy = at("dy"), a.dwords = at("dwords"), a.dhidden = at("dhidden");
    return a;
  }
  void expect_close(double bound) const {
    for (const auto& [name, pair] : pairs_) {
      SCOPED_TRACE(name);
      pair.expect_close(bound);
    }
  }

 private:
  void add(const std::string& name, const Shape& shape, double scale = 1) {
    pairs_.emplace(name, Pair(type_, shape, 0, scale));
  }
  DType type_;
  RelationalMemoryArgs args_;
  std::map<std::string, Pair> pairs_;
};

TEST_F(CudaKernels, RelationalMemoryIsTheCpus) {
  const struct {
    int64_t batch, steps, slots, heads, width;
    double dropout;
  } cases[] = {{1, 1, 1, 1, 1, 0}, {2, 2, 3, 2, 6, 0.1}, {1, 2, 5, 4, 40, 0}};
  for (const auto& c : cases)
    for (const DType type : {DType::f32, DType::f64}) {
      Operands operands(type, c.batch, c.steps, c.slots, c.heads, c.width, c.dropout);
      const double bound = type == DType::f32 ? 1e-5 : 1e-13;
      on_both([&](auto& ctx, Device d) {
        kernels::relational_memory_forward(ctx, operands.on_device(d, false));
      });
      operands.expect_close(bound);
      on_both([&](auto& ctx, Device d) {
        kernels::relational_memory_backward(ctx, operands.on_device(d, true));
      });
      operands.expect_close(bound);
    }
}

// Training steps of the op, dropout and its first memory included, as they are and replayed.
TEST_F(CudaKernels, RelationalMemoryCanBeRecorded) {
  const Tensor words = Tensor::full({2, 3, 8}, 0.25, DType::f32, kCuda);
  const Tensor dy = Tensor::full({2, 3, 2 * 8}, 0.5, DType::f32, kCuda);
  const auto train = [&](bool replayed) {
    manual_seed(11);
    report::RelationalMemory memory(8, 2, 2);
    memory.to(kCuda);
    optim::Sgd optimizer(memory.named_parameters(), {.lr = 0.05});
    optimizer.make_capturable();
    StepGraphs graphs(kCuda);
    Tensor y;
    const auto step = [&] {
      y = memory(words);
      backward(y, dy);
      optimizer.step();
      optimizer.zero_grad();
    };
    std::vector<std::vector<float>> all;
    for (int i = 0; i < 5; ++i) {
      replayed ? graphs.run("step", step) : step();
      all.push_back(y.detach().to(kCpu).values<float>());
    }
    return all;
  };
  const auto want = train(false);
  EXPECT_EQ(train(true), want);
  EXPECT_NE(want[0], want[4]);
}

}  // namespace
}  // namespace pinion::testing
