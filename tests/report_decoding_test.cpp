// SPDX-License-Identifier: Apache-2.0
// Reports written word by word equal those of a decoder that sees every prefix anew.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "pinion/apps/report/decoding.h"
#include "pinion/nn/init.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {
namespace {

EncoderDecoder small_model(MemoryKind memory, uint64_t seed = 3) {
  manual_seed(seed);
  EncoderDecoder model({.vocabulary = 13,
                        .d_model = 16,
                        .d_ff = 24,
                        .d_vf = 10,
                        .heads = 4,
                        .layers = 2,
                        .rm_slots = 3,
                        .rm_heads = 2,
                        .memory = memory});
  model.eval();
  for (Tensor& p : model.parameters())  // far from uniform, so that no two words are nearly equal
    if (p.rank() > 1) nn::init::normal(p, 0, 0.5);
  return model;
}

Tensor features(int64_t reports) {
  Tensor x({reports, 6, 10});
  nn::init::normal(x);
  return x;
}

// Log-probabilities after a prefix, by the decoder as it is trained.
std::vector<double> logp_after(EncoderDecoder& model, const Tensor& encoded,
                               const std::vector<int64_t>& words) {
  std::vector<int64_t> ids = {0};
  ids.insert(ids.end(), words.begin(), words.end());
  const Tensor prefix = Tensor::of(ids, {1, static_cast<int64_t>(ids.size())});
  const Tensor all = model.decode(encoded, prefix, EncoderDecoder::padding_of(prefix));
  const Tensor last = nn::reshape(nn::slice(all, 1, all.size(1) - 1, all.size(1)), {1, 13});
  const auto values = nn::log_softmax(nn::cast(last, DType::f64)).values<double>();
  return values;
}

// The published beam search without any cache: every prefix is decoded again.
std::vector<int64_t> plain_beam_search(EncoderDecoder& model, const Tensor& encoded, size_t width,
                                       int64_t max_length, double temperature) {
  struct Text {
    std::vector<int64_t> ids;
    double sum = 0;
    bool ended = false;
  };
  std::vector<Text> beam = {{}}, done;
  for (int64_t t = 0; t < max_length; ++t) {
    std::vector<Text> candidates;
    for (const Text& text : beam) {
      if (text.ended) continue;
      std::vector<double> logp = logp_after(model, encoded, text.ids);
      if (t > 0 && temperature != 1) {
        double sum = 0;
        for (double& l : logp) sum += std::exp(l /= temperature);
        for (double& l : logp) l -= std::log(sum);
      }
      for (int64_t v = 0; v < 13; ++v) {
        Text next = text;
        next.sum += logp[static_cast<size_t>(v)];
        next.ended = v == 0;
        if (v != 0) next.ids.push_back(v);
        candidates.push_back(std::move(next));
      }
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Text& a, const Text& b) { return a.sum > b.sum; });
    if (candidates.size() > width) candidates.resize(width);
    for (Text& text : candidates) {
      if (t + 1 == max_length) text.ended = true;
      if (text.ended) done.push_back(text);
    }
    beam = candidates;
  }
  return std::max_element(done.begin(), done.end(),
                          [](const Text& a, const Text& b) { return a.sum < b.sum; })
      ->ids;
}

class DecodingTest : public testing::TestWithParam<MemoryKind> {};

TEST_P(DecodingTest, BeamSearchEqualsTheOneWithoutCaches) {
  const NoGrad no_grad;
  for (const uint64_t seed : {1, 2, 3})
    for (const double temperature : {1.0, 0.6}) {
      EncoderDecoder model = small_model(GetParam(), seed);
      const Tensor x = features(4);
      const auto written =
          write_reports(model, x, {.beam_size = 3, .max_length = 12, .temperature = temperature});
      ASSERT_EQ(written.size(), 4U);
      for (int64_t i = 0; i < 4; ++i) {
        const Tensor encoded = model.encode(x.rows(i, i + 1));
        EXPECT_EQ(written[static_cast<size_t>(i)].ids,
                  plain_beam_search(model, encoded, 3, 12, temperature))
            << "seed " << seed << " report " << i;
      }
    }
}

TEST_P(DecodingTest, ProbabilitiesAreTheModelsOwn) {
  const NoGrad no_grad;
  EncoderDecoder model = small_model(GetParam(), 2);
  const Tensor x = features(3);
  const auto reports =
      write_reports(model, x, {.method = "greedy", .max_length = 20, .decoding_constraint = true});
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor encoded = model.encode(x.rows(i, i + 1));
    const WrittenReport& report = reports[static_cast<size_t>(i)];
    for (size_t t = 0; t < report.ids.size(); ++t) {
      const auto logp = logp_after(
          model, encoded, {report.ids.begin(), report.ids.begin() + static_cast<ptrdiff_t>(t)});
      EXPECT_NEAR(report.probabilities[t], std::exp(logp[static_cast<size_t>(report.ids[t])]),
                  1e-5);
    }
  }
}

TEST_P(DecodingTest, GreedyTakesTheLikeliestWord) {
  const NoGrad no_grad;
  EncoderDecoder model = small_model(GetParam());
  const Tensor x = features(2);
  const auto written =
      write_reports(model, x, {.method = "greedy", .max_length = 9, .block_trigrams = false});
  for (int64_t i = 0; i < 2; ++i) {
    const Tensor encoded = model.encode(x.rows(i, i + 1));
    const WrittenReport& report = written[static_cast<size_t>(i)];
    std::vector<int64_t> ids;
    double sum = 0;
    while (ids.size() < 9) {
      const auto logp = logp_after(model, encoded, ids);
      const auto best = std::max_element(logp.begin(), logp.end()) - logp.begin();
      sum += logp[static_cast<size_t>(best)];
      if (best == 0) break;
      ids.push_back(best);
    }
    EXPECT_EQ(report.ids, ids);
    EXPECT_NEAR(report.log_probability, sum, 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, DecodingTest,
                         testing::Values(MemoryKind::base, MemoryKind::rm, MemoryKind::rm_mcln));

TEST(Decoding, DrawsWordsByChanceAndTheSameOnesAgain) {
  EncoderDecoder model = small_model(MemoryKind::rm_mcln);
  const Tensor x = features(3);
  const auto draw = [&](const char* method, uint64_t seed) {
    std::vector<std::vector<int64_t>> ids;
    for (const auto& r :
         write_reports(model, x, {.method = method, .max_length = 10, .seed = seed}))
      ids.push_back(r.ids);
    return ids;
  };
  EXPECT_EQ(draw("sample", 1), draw("sample", 1));
  EXPECT_NE(draw("sample", 1), draw("sample", 2));
  EXPECT_EQ(draw("top1", 1), draw("greedy", 2));
  EXPECT_EQ(draw("top0.000001", 1), draw("greedy", 2));
}

TEST(Decoding, NeverRepeatsAWordWhenToldSo) {
  EncoderDecoder model = small_model(MemoryKind::rm_mcln);
  for (const char* method : {"beam_search", "greedy", "sample"})
    for (const auto& r : write_reports(
             model, features(3), {.method = method, .max_length = 20, .decoding_constraint = true}))
      EXPECT_EQ(std::adjacent_find(r.ids.begin(), r.ids.end()), r.ids.end()) << method;
}

TEST(Decoding, RefusesOptionsThatMakeNoSense) {
  EncoderDecoder model = small_model(MemoryKind::base);
  const Tensor x = features(1);
  for (const char* method : {"best", "top", "top-3", "topx", "top0"})
    EXPECT_THROW(write_reports(model, x, {.method = method}), Error) << method;
  EXPECT_THROW(write_reports(model, x, {.beam_size = 0}), Error);
  EXPECT_THROW(write_reports(model, x, {.temperature = 0}), Error);
  model.train();
  EXPECT_THROW(write_reports(model, x, {}), Error);
}

}  // namespace
}  // namespace pinion::report
