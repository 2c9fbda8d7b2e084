// SPDX-License-Identifier: Apache-2.0
// R2Gen's encoder and decoder against figures of the published model in double precision.
#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "pinion/apps/report/encoder_decoder.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {
namespace {

constexpr double kNear = 1e-6;  // the positions are f32

TransformerOptions small_model() {
  return {.vocabulary = 11,
          .d_model = 8,
          .d_ff = 12,
          .d_vf = 6,
          .heads = 2,
          .layers = 2,
          .rm_slots = 2,
          .rm_heads = 2};
}

// Element j of parameter k is 0.5 sin(0.37 j + 0.11 k); of a gamma, 1 + 0.1 times that.
EncoderDecoder model_of_sines() {
  EncoderDecoder model(small_model());
  model.to(DType::f64);
  model.eval();
  auto parameters = model.named_parameters();
  for (size_t k = 0; k < parameters.size(); ++k) {
    auto& [name, tensor] = parameters[k];
    std::vector<double> values(static_cast<size_t>(tensor.numel()));
    for (size_t j = 0; j < values.size(); ++j) {
      const double sine =
          0.5 * std::sin(0.37 * static_cast<double>(j) + 0.11 * static_cast<double>(k));
      values[j] = name.ends_with("gamma") ? 1 + 0.1 * sine : sine;
    }
    tensor.copy_(Tensor::of(values, tensor.shape()));
  }
  return model;
}

struct Batch {
  Tensor features, ids, targets, weight;
};

Batch two_reports() {
  std::vector<double> features(48);
  for (size_t i = 0; i < features.size(); ++i) features[i] = std::cos(.23 * static_cast<double>(i));
  return {Tensor::of(features, {2, 4, 6}),
          Tensor::of<int64_t>({0, 3, 5, 2, 7, 0, 4, 1, 9, 0}, {2, 5}),
          Tensor::of<int64_t>({3, 5, 2, 7, 0, 4, 1, 9, 0, 0}, {2, 5}),
          Tensor::of<float>({1, 1, 1, 1, 1, 1, 1, 1, 1, 0}, {2, 5})};
}

double at(const Tensor& x, size_t i) { return x.values<double>()[i]; }

TEST(EncoderDecoder, MatchesThePublishedModel) {
  EncoderDecoder model = model_of_sines();
  const Batch batch = two_reports();
  const Tensor encoded = model.encode(batch.features);
  const Tensor words = model.embed(batch.ids);
  const Tensor logits = model.decode(encoded, batch.ids, EncoderDecoder::padding_of(batch.ids));

  EXPECT_EQ(model.named_parameters().size(), 157U);
  EXPECT_NEAR(at(encoded, 0), 1.2051687677, kNear);
  EXPECT_NEAR(at(encoded, 3), -1.0969459984, kNear);
  EXPECT_NEAR(at(words, 8), -.4009345193, kNear);
  EXPECT_NEAR(at(words, 11), 1.0476838463, kNear);
  const Tensor memory = model.remember(words);
  EXPECT_NEAR(at(memory, 0), 1.0921763248, kNear);
  EXPECT_NEAR(at(memory, 3), -.1940774529, kNear);

  const Tensor logp = nn::log_softmax(logits);
  EXPECT_NEAR(nn::sum(logp).item(), -306.8545532873, 1e-5);
  EXPECT_NEAR(at(logp, 0), -3.2330270658, kNear);
  EXPECT_NEAR(at(logp, 2), -2.7886894811, kNear);
  EXPECT_NEAR(at(logp, 88), -2.6130271035, kNear);
  EXPECT_NEAR(at(logp, 90), -2.3243001005, kNear);
}

TEST(EncoderDecoder, HasThePublishedLossAndGradients) {
  EncoderDecoder model = model_of_sines();
  const Batch batch = two_reports();
  const Tensor logits = model(batch.features, batch.ids, EncoderDecoder::padding_of(batch.ids));
  const Tensor loss = nn::cross_entropy(logits, batch.targets, {.weight = batch.weight});
  EXPECT_NEAR(loss.item(), 3.026474588585, kNear);
  backward(loss);

  const std::map<std::string, double> norms = {
      {"att_embed.0.weight", .008452938139},
      {"model.encoder.layers.0.self_attn.linears.0.weight", .000173611405},
      {"model.encoder.norm.gamma", .026276277187},
      {"model.decoder.layers.0.src_attn.linears.1.weight", .001596273779},
      {"model.decoder.layers.0.sublayer.0.norm.mlp_gamma.0.weight", .024733293932},
      {"model.decoder.layers.1.sublayer.2.norm.mlp_beta.2.bias", .032620105177},
      {"model.tgt_embed.0.lut.weight", .120658106772},
      {"model.rm.attn.linears.2.weight", .012889567932},
      {"model.rm.mlp.0.weight", .053109653533},
      {"model.rm.W.weight", .012207523167},
      {"model.rm.U.bias", .005930702359},
      {"logit.weight", 1.111542863303},
  };
  size_t found = 0;
  for (const auto& [name, tensor] : model.named_parameters()) {
    const auto norm = norms.find(name);
    if (norm == norms.end()) continue;
    ++found;
    double squares = 0;
    for (const double g : tensor.grad().values<double>()) squares += g * g;
    EXPECT_NEAR(std::sqrt(squares), norm->second, 1e-6) << name;
  }
  EXPECT_EQ(found, norms.size());
}

TEST(EncoderDecoder, HasThePublishedNumberOfParameters) {
  EncoderDecoder model{TransformerOptions{}};
  EXPECT_EQ(model.parameter_count(), 35'973'369);
}

TEST(EncoderDecoder, ItsFormsTrain) {
  for (const MemoryKind kind : {MemoryKind::base, MemoryKind::rm, MemoryKind::rm_mcln}) {
    TransformerOptions options = small_model();
    options.memory = kind;
    EncoderDecoder model(options);
    const Batch batch = two_reports();
    const Tensor logits = model(nn::cast(batch.features, DType::f32), batch.ids,
                                EncoderDecoder::padding_of(batch.ids));
    EXPECT_EQ(logits.shape(), (Shape{2, 5, 11}));
    backward(nn::cross_entropy(logits, batch.targets));
    for (const auto& [name, tensor] : model.named_parameters())
      EXPECT_TRUE(tensor.grad().defined()) << name;
  }
}

}  // namespace
}  // namespace pinion::report
