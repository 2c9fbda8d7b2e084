// SPDX-License-Identifier: Apache-2.0
// Weight files: a round trip, a file made by PyTorch, and files that do not fit.
#include "pinion/nn/weights.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "pinion/nn/init.h"
#include "pinion/nn/layers.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/golden_file.h"
#include "pinion/tests/support/paths.h"

namespace pinion::nn {
namespace {

using testing::error_text;
using testing::GoldenFile;
using ::testing::HasSubstr;

// The module of tools/make_golden_optim.py.
struct Model : Module {
  Embedding embedding{11, 6, 0};
  LayerNorm norm{6};
  std::vector<Linear> layers{{6, 9}, {9, 4, false}};

  Tensor operator()(const Tensor& ids) const {
    return layers[1](layers[0](norm(embedding(ids)), Activation::gelu));
  }
  void fields(Fields& f) override {
    f("embedding", embedding);
    f("norm", norm);
    f("layers", layers);
  }
};

class Weights : public ::testing::Test {
 protected:
  Weights() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    directory_ = std::filesystem::path(in_build("test_files")) / info->name();
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~Weights() override { std::filesystem::remove_all(directory_); }
  std::string path(const char* name) const { return (directory_ / name).string(); }

 private:
  std::filesystem::path directory_;
};

TEST_F(Weights, LoadsWhatPyTorchSavedAndComputesTheSame) {
  Model model;
  load_weights(model, in_source("tests/golden/optim_module.safetensors"));
  const GoldenFile values("optim_module_values");
  const std::vector<float> y = model(values.load("ids")).values<float>();
  const std::vector<float> expected = values.values<float>("y");
  ASSERT_EQ(y.size(), expected.size());
  for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 2e-6);
}

TEST_F(Weights, RoundTripIsExact) {
  manual_seed(1);
  Model from, into;
  save_weights(from, path("m.safetensors"), {{"epoch", "3"}});
  load_weights(into, path("m.safetensors"));
  const std::vector<NamedTensor> a = from.state(), b = into.state();
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(a[i].tensor.values<float>(), b[i].tensor.values<float>()) << a[i].name;
  const SafetensorsReader file(path("m.safetensors"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("epoch"), "3");
  EXPECT_EQ(file.entries().size(), 6u);
}

TEST_F(Weights, ConvertsFloatingTypes) {
  manual_seed(2);
  Linear narrow(3, 4), wide(3, 4);
  narrow.to(DType::bf16);
  save_weights(narrow, path("narrow.safetensors"));
  load_weights(wide, path("narrow.safetensors"));
  EXPECT_EQ(wide.weight.dtype(), DType::f32);
  const std::vector<BFloat16> expected = narrow.weight.values<BFloat16>();
  const std::vector<float> got = wide.weight.values<float>();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], float(expected[i]));
}

TEST_F(Weights, RefusesFilesThatDoNotFitAndChangesNothing) {
  Model model;
  const std::vector<float> before = model.norm.weight.values<float>();
  const auto refused = [&](const std::string& file) {
    const std::string text = error_text(ErrorKind::checkpoint, [&] { load_weights(model, file); });
    EXPECT_EQ(model.norm.weight.values<float>(), before);
    EXPECT_THAT(text, HasSubstr(file));
    return text;
  };
  std::vector<NamedTensor> state = model.state();
  for (NamedTensor& t : state) t.tensor = Tensor::full(t.tensor.shape(), 9);
  const std::vector<NamedTensor> fewer(state.begin(), state.end() - 1);
  save_safetensors(path("fewer.safetensors"), fewer);
  EXPECT_THAT(refused(path("fewer.safetensors")), HasSubstr("layers.1.weight is missing"));
  std::vector<NamedTensor> more = state;
  more.push_back({"layers.1.bias", Tensor::zeros({4})});
  save_safetensors(path("more.safetensors"), more);
  EXPECT_THAT(refused(path("more.safetensors")), HasSubstr("layers.1.bias is not expected"));
  std::vector<NamedTensor> shape = state;
  shape.back().tensor = Tensor::zeros({4, 9, 1});
  save_safetensors(path("shape.safetensors"), shape);
  EXPECT_THAT(refused(path("shape.safetensors")),
              HasSubstr("should have shape [4,9], got [4,9,1]"));
  std::vector<NamedTensor> dtype = state;
  dtype.back().tensor = Tensor::zeros({4, 9}, DType::i32);
  save_safetensors(path("dtype.safetensors"), dtype);
  EXPECT_THAT(refused(path("dtype.safetensors")), HasSubstr("should be f32, got i32"));
  EXPECT_THAT(error_text(ErrorKind::missing, [&] { load_weights(model, path("none")); }),
              HasSubstr("none"));
}

}  // namespace
}  // namespace pinion::nn
