// SPDX-License-Identifier: Apache-2.0
// Module: names, ties, modes, state and conversions of a small tree.
#include "pinion/nn/module.h"

#include <gmock/gmock.h>

#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::nn {
namespace {

using ::testing::ElementsAre;
using testing::error_text;
using ::testing::HasSubstr;

// A parameter, a buffer, a child, a list of children, and a tie: head.weight is table.weight.
struct Tree : Module {
  Tensor scale;
  Tensor mean;
  Tensor absent;
  Embedding table{5, 3};
  std::vector<Linear> layers;
  Linear head{3, 5, false};
  Dropout noise{0.5};

  Tree() : scale(Tensor::full({2}, 3)), mean(Tensor::full({2}, 4)) {
    scale.requires_grad(true);
    layers.emplace_back(3, 4);
    layers.emplace_back(4, 3);
    head.weight = table.weight;
  }
  void fields(Fields& f) override {
    f("scale", scale);
    f.buffer("mean", mean);
    f("absent", absent);
    f("table", table);
    f("layers", layers);
    f("head", head);
    f("noise", noise);
  }
};

std::vector<std::string> names(const std::vector<NamedTensor>& tensors) {
  std::vector<std::string> out;
  for (const NamedTensor& t : tensors) out.push_back(t.name);
  return out;
}

std::vector<NamedTensor> copies(Module& m) {
  std::vector<NamedTensor> out = m.state();
  for (NamedTensor& t : out) t.tensor = t.tensor.clone();
  return out;
}

TEST(Module, ListsParametersOnceInOrderAndStateUnderEveryName) {
  Tree tree;
  EXPECT_THAT(names(tree.named_parameters()),
              ElementsAre("scale", "table.weight", "layers.0.weight", "layers.0.bias",
                          "layers.1.weight", "layers.1.bias"));
  EXPECT_THAT(names(tree.named_buffers()), ElementsAre("mean"));
  EXPECT_THAT(names(tree.state()),
              ElementsAre("scale", "mean", "table.weight", "layers.0.weight", "layers.0.bias",
                          "layers.1.weight", "layers.1.bias", "head.weight"));
  EXPECT_EQ(tree.parameters().size(), 6u);
  EXPECT_EQ(tree.parameter_count(), 2 + 15 + 12 + 4 + 12 + 3);
}

TEST(Module, ModesReachEveryChild) {
  Tree tree;
  EXPECT_TRUE(tree.training() && tree.noise.training() && tree.layers[1].training());
  tree.eval();
  EXPECT_FALSE(tree.training() || tree.noise.training() || tree.layers[1].training());
  tree.train();
  EXPECT_TRUE(tree.training() && tree.noise.training() && tree.layers[1].training());
}

TEST(Module, LoadsStateInPlaceAndConvertsDtypes) {
  manual_seed(1);
  Tree from, into;
  std::vector<NamedTensor> state = copies(from);
  for (NamedTensor& t : state)
    if (t.name == "scale") t.tensor = Tensor::of<double>({0.5, -7}, {2});
  const Tensor before = into.layers[0].weight;
  into.load_state(state);
  EXPECT_TRUE(into.layers[0].weight.same(before));
  EXPECT_EQ(into.layers[0].weight.values<float>(), from.layers[0].weight.values<float>());
  EXPECT_THAT(into.scale.values<float>(), ElementsAre(0.5f, -7.0f));
  EXPECT_TRUE(into.scale.requires_grad());
}

TEST(Module, RefusesStateThatDoesNotFitAndChangesNothing) {
  manual_seed(2);
  Tree from, into;
  const std::vector<float> before = into.layers[0].weight.values<float>();
  const auto refused = [&](const std::vector<NamedTensor>& state) {
    const std::string text = error_text(ErrorKind::checkpoint, [&] { into.load_state(state); });
    EXPECT_EQ(into.layers[0].weight.values<float>(), before);
    return text;
  };
  std::vector<NamedTensor> missing = copies(from);
  missing.pop_back();
  EXPECT_THAT(refused(missing), HasSubstr("head.weight is missing"));
  std::vector<NamedTensor> extra = copies(from);
  extra.push_back({"layers.2.weight", Tensor::zeros({1})});
  EXPECT_THAT(refused(extra), HasSubstr("layers.2.weight is not expected"));
  std::vector<NamedTensor> twice = copies(from);
  twice.push_back(twice[3]);
  EXPECT_THAT(refused(twice), HasSubstr("layers.0.weight is given twice"));
  std::vector<NamedTensor> shape = copies(from);
  shape.back().tensor = Tensor::zeros({3, 5});
  EXPECT_THAT(refused(shape), HasSubstr("head.weight should have shape [5,3], got [3,5]"));
  std::vector<NamedTensor> dtype = copies(from);
  dtype.back().tensor = Tensor::zeros({5, 3}, DType::i64);
  EXPECT_THAT(refused(dtype), HasSubstr("head.weight should be f32, got i64"));
  std::vector<NamedTensor> undefined = copies(from);
  undefined.back().tensor = {};
  EXPECT_THAT(refused(undefined), HasSubstr("head.weight is undefined"));
}

TEST(Module, ConvertsTiedTensorsTogether) {
  Tree tree;
  tree.to(DType::f64);
  EXPECT_EQ(tree.mean.dtype(), DType::f64);
  EXPECT_EQ(tree.table.weight.dtype(), DType::f64);
  EXPECT_TRUE(tree.head.weight.same(tree.table.weight));
  EXPECT_TRUE(tree.table.weight.requires_grad());
  EXPECT_FALSE(tree.mean.requires_grad());
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { tree.to(DType::i64); }),
              HasSubstr("expected a floating dtype, got i64"));
  const Tensor before = tree.scale;
  tree.to(Device{});
  EXPECT_TRUE(tree.scale.same(before));
}

TEST(Module, CountersAreSavedApartFromState) {
  Tree tree;
  const Tensor x = Tensor::full({4}, 1);
  tree.noise(x);
  tree.noise(x);
  ASSERT_EQ(tree.counters().size(), 1u);
  EXPECT_EQ(tree.counters()[0].name, "noise.calls");
  EXPECT_EQ(tree.counters()[0].count, 2u);
  tree.load_counters({{"noise.calls", 7}});
  EXPECT_EQ(tree.counters()[0].count, 7u);
  const auto refused = [&](const std::vector<NamedCounter>& c) {
    return error_text(ErrorKind::checkpoint, [&] { tree.load_counters(c); });
  };
  EXPECT_THAT(refused({}), HasSubstr("noise.calls is missing"));
  EXPECT_THAT(refused({{"noise.calls", 1}, {"noise.calls", 2}}), HasSubstr("given twice"));
  EXPECT_THAT(refused({{"noise.calls", 1}, {"other", 2}}), HasSubstr("expected 1 counters, got 2"));
  EXPECT_EQ(tree.counters()[0].count, 7u);
}

TEST(Module, RefusesTwoFieldsOfOneName) {
  struct Twins : Module {
    Tensor a = Tensor::zeros({1}), b = Tensor::zeros({1});
    void fields(Fields& f) override {
      f("x", a);
      f("x", b);
    }
  } twins;
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { twins.state(); }), HasSubstr("are named x"));
}

TEST(Module, CopiesShareTensors) {
  Linear a(2, 2);
  Linear b = a;
  EXPECT_TRUE(b.weight.same(a.weight));
  std::vector<Linear> list;
  for (int i = 0; i < 5; ++i) list.emplace_back(2, 2);  // moves while it grows
  for (Linear& l : list) EXPECT_TRUE(l.weight.defined() && l.training());
}

}  // namespace
}  // namespace pinion::nn
