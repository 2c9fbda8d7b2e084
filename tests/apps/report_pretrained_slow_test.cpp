// SPDX-License-Identifier: Apache-2.0
// Weights under torchvision's names: what the extractor makes of an image with them is what PyTorch
// made (tools/make_golden_resnet.py), and what does not fit is refused. R2Gen's names on export.
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "pinion/apps/report/pretrained.h"
#include "pinion/apps/report/report_model.h"
#include "pinion/nn/weights.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/fs_testing.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::report {
namespace {

using ::testing::HasSubstr;

// As uniform() and value() of the tool.
std::vector<double> uniform(uint64_t k, int64_t count) {
  std::vector<double> out;
  for (uint64_t j = 0; j < static_cast<uint64_t>(count); ++j) {
    uint64_t h = (j + 1) * 0x9E3779B97F4A7C15u + k * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 31)) * 0x94D049BB133111EBu;
    out.push_back(static_cast<double>(h >> 40) / 8388608.0 - 1);
  }
  return out;
}

Tensor value(uint64_t k, const std::string& name, const Shape& shape) {
  std::vector<float> out;
  const bool scale = name.ends_with("weight") && shape.rank() == 1;
  const double filter =
      shape.rank() == 4 ? std::sqrt(3.0 / static_cast<double>(shape[1] * shape[2] * shape[3])) : 0;
  for (const double u : uniform(k, shape.numel()))
    out.push_back(static_cast<float>(filter > 0                      ? u * filter
                                     : name.ends_with("running_var") ? 1 + .5 * u
                                     : scale                         ? 1 + .25 * u
                                                                     : .1 * u));
  return Tensor::of(out, shape);
}

// "model.4.0.conv1.weight" as "layer1.0.conv1.weight".
std::string name_at_torchvision(const std::string& name) {
  const char stage = name[6];
  const std::string rest = name.substr(8);
  if (stage == '0') return "conv1." + rest;
  if (stage == '1') return "bn1." + rest;
  return std::string("layer") + static_cast<char>(stage - 3) + "." + rest;
}

// What torchvision's state_dict() of the network would hold.
std::vector<NamedTensor> torchvision_state(const std::string& network) {
  VisualExtractor extractor(network, 1);
  std::vector<NamedTensor> out;
  for (const auto& [name, tensor] : nn::file_tensors(extractor)) {
    const bool count = name.ends_with("num_batches_tracked");
    out.push_back({name_at_torchvision(name),
                   count ? Tensor::of<int64_t>({7}, {}) : value(out.size(), name, tensor.shape())});
  }
  for (const auto& [name, shape] :
       {std::pair("fc.weight", Shape{1000, extractor.width()}), std::pair("fc.bias", Shape{1000})})
    out.push_back({name, value(out.size(), name, shape)});
  return out;
}

TEST(Pretrained, GivesTheFeaturesThatPyTorchComputes) {
  const TempDir dir;
  const pinion::testing::GoldenFile golden("resnet");
  std::vector<float> pixels;
  for (const double u : uniform(1000, 64 * 64 * 3)) pixels.push_back(static_cast<float>(u));
  for (const auto& [network, tensors] :
       {std::pair("resnet18", 122U), std::pair("resnet50", 320U)}) {
    const auto state = torchvision_state(network);
    EXPECT_EQ(state.size(), tensors);
    save_safetensors(dir / "weights", state);
    VisualExtractor extractor(network, 1);
    load_pretrained(extractor, dir / "weights");
    extractor.eval();
    const NoGrad no_grad;
    const auto features = extractor(Tensor::of(pixels, {1, 64, 64, 3})).values<float>();
    const auto theirs = golden.values<float>(network);
    ASSERT_EQ(features.size(), theirs.size());
    double worst = 0, largest = 0;
    for (size_t i = 0; i < theirs.size(); ++i) {
      worst = std::max<double>(worst, std::abs(features[i] - theirs[i]));
      largest = std::max<double>(largest, std::abs(theirs[i]));
    }
    EXPECT_LT(worst, 1e-4) << network << ", largest " << largest;
    RecordProperty(std::string(network) + "_worst", std::to_string(worst));
  }
}

TEST(Pretrained, RefusesWhatDoesNotFit) {
  const TempDir dir;
  VisualExtractor extractor("resnet18", 1);
  const auto before = extractor.parameters()[0].values<float>();
  const auto refusal = [&](const std::vector<NamedTensor>& state) {
    save_safetensors(dir / "weights", state);
    const Error error = error_of([&] { load_pretrained(extractor, dir / "weights"); });
    EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
    EXPECT_THAT(error.what(), HasSubstr(dir / "weights"));
    return std::string(error.what());
  };
  const auto good = torchvision_state("resnet18");
  auto missing = good;
  missing.erase(missing.begin() + 20);
  EXPECT_THAT(refusal(missing), HasSubstr("model.4.1"));
  auto wrong = good;
  wrong[0].tensor = Tensor::zeros({64, 1, 7, 7});
  EXPECT_THAT(refusal(wrong), HasSubstr("model.0.weight"));
  auto more = good;
  more.push_back({"layer5.0.conv1.weight", Tensor::zeros({1})});
  EXPECT_THAT(refusal(more), HasSubstr("model.8.0.conv1.weight"));
  refusal(torchvision_state("resnet34"));
  EXPECT_THAT(refusal({{"resnet.embedder.weight", Tensor::zeros({1})}}),
              HasSubstr("expected torchvision's names"));
  EXPECT_EQ(extractor.parameters()[0].values<float>(), before);
  EXPECT_EQ(error_of([&] { load_pretrained(extractor, dir / "none"); }).kind(), ErrorKind::missing);
}

// The names of R2Gen's checkpoints (its modules' fields, joined by dots), for ResNet-101.
std::set<std::string> r2gen_names() {
  std::set<std::string> names;
  const auto add = [&](const std::string& prefix, std::initializer_list<const char*> fields) {
    for (const char* field : fields) names.insert(prefix + field);
  };
  const auto norm = [&](const std::string& p) {
    add(p, {".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked"});
  };
  const auto linear = [&](const std::string& p) { add(p, {".weight", ".bias"}); };
  const auto linears = [&](const std::string& p) {
    for (int i = 0; i < 4; ++i) linear(p + ".linears." + std::to_string(i));
  };
  const std::string v = "visual_extractor.model.", e = "encoder_decoder.";
  add(v + "0", {".weight"});
  norm(v + "1");
  constexpr int kBlocks[] = {3, 4, 23, 3};
  for (int stage = 0; stage < 4; ++stage)
    for (int block = 0; block < kBlocks[stage]; ++block) {
      const std::string b = v + std::to_string(stage + 4) + "." + std::to_string(block);
      for (const char* i : {"1", "2", "3"}) {
        add(b + ".conv" + i, {".weight"});
        norm(b + ".bn" + i);
      }
      if (block > 0) continue;
      add(b + ".downsample.0", {".weight"});
      norm(b + ".downsample.1");
    }
  linear(e + "att_embed.0");
  linear(e + "logit");
  for (int i = 0; i < 3; ++i) {
    const std::string enc = e + "model.encoder.layers." + std::to_string(i);
    const std::string dec = e + "model.decoder.layers." + std::to_string(i);
    linears(enc + ".self_attn");
    linears(dec + ".self_attn");
    linears(dec + ".src_attn");
    for (const std::string& layer : {enc, dec}) {
      linear(layer + ".feed_forward.w_1");
      linear(layer + ".feed_forward.w_2");
    }
    for (const char* s : {"0", "1"}) add(enc + ".sublayer." + s + ".norm", {".gamma", ".beta"});
    for (const char* s : {"0", "1", "2"}) {
      const std::string n = dec + ".sublayer." + s + ".norm";
      add(n, {".gamma", ".beta"});
      for (const char* mlp : {".mlp_gamma.0", ".mlp_gamma.2", ".mlp_beta.0", ".mlp_beta.2"})
        linear(n + mlp);
    }
  }
  add(e + "model.encoder.norm", {".gamma", ".beta"});
  add(e + "model.decoder.norm", {".gamma", ".beta"});
  add(e + "model.tgt_embed", {".0.lut.weight", ".1.pe"});
  linears(e + "model.rm.attn");
  for (const char* part : {"mlp.0", "mlp.2", "W", "U"}) linear(e + "model.rm." + part);
  return names;
}

TEST(Pretrained, ACheckpointHasR2GensNames) {
  ReportModel model("resnet101", 2, {.d_model = 16, .d_ff = 16, .rm_slots = 3});
  std::set<std::string> names;
  for (const auto& [name, tensor] : nn::file_tensors(model)) names.insert(name);
  EXPECT_EQ(names, r2gen_names());
}

}  // namespace
}  // namespace pinion::report
