// SPDX-License-Identifier: Apache-2.0
// Reports written word by word equal those of a decoder that sees every prefix anew.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "pinion/apps/report/decoding.h"
#include "pinion/nn/init.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {
namespace {

EncoderDecoder small_model(MemoryKind memory, uint64_t seed = 3, int64_t vocabulary = 13) {
  manual_seed(seed);
  EncoderDecoder model({.vocabulary = vocabulary,
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
  const Tensor last =
      nn::reshape(nn::slice(all, 1, all.size(1) - 1, all.size(1)), {1, all.size(2)});
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

// Every option with the cache and without it.
TEST_P(DecodingTest, CachesChangeNothing) {
  EncoderDecoder model = small_model(GetParam(), 2);
  const Tensor x = features(3);
  for (DecodingOptions o : {DecodingOptions{.beam_size = 6, .sample_n = 3, .group_size = 2},
                            DecodingOptions{.length_penalty = "wu_0.8"},
                            DecodingOptions{.sample_n = 3, .length_penalty = "avg"},
                            DecodingOptions{.decoding_constraint = true, .forbidden = 4},
                            DecodingOptions{.method = "greedy", .group_size = 3},
                            DecodingOptions{.method = "sample", .temperature = 0.7, .sample_n = 2},
                            DecodingOptions{.method = "gumbel"}, DecodingOptions{.method = "top4"},
                            DecodingOptions{.method = "top0.8", .forbidden = 2}}) {
    o.max_length = 12;
    const auto cached = write_several(model, x, o);
    o.cached = false;
    const auto plain = write_several(model, x, o);
    ASSERT_EQ(cached.size(), 3U);
    for (size_t i = 0; i < cached.size(); ++i) {
      ASSERT_EQ(cached[i].size(), plain[i].size());
      EXPECT_EQ(cached[i].size(), static_cast<size_t>(o.method == "greedy" ? 3 : o.sample_n));
      for (size_t n = 0; n < cached[i].size(); ++n) {
        EXPECT_EQ(cached[i][n].ids, plain[i][n].ids) << o.method << " " << o.length_penalty;
        EXPECT_NEAR(cached[i][n].log_probability, plain[i][n].log_probability, 1e-4);
        EXPECT_EQ(std::count(cached[i][n].ids.begin(), cached[i][n].ids.end(), o.forbidden), 0);
      }
    }
  }
}

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

// A beam that holds every text there is finds what trying them all finds.
TEST(Decoding, LengthPenaltiesRankFinishedTexts) {
  const NoGrad no_grad;
  constexpr int64_t kWords = 4, kLength = 3;
  bool differ = false;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    EncoderDecoder model = small_model(MemoryKind::rm_mcln, seed, kWords);
    const Tensor x = features(1), encoded = model.encode(x);
    struct Text {
      std::vector<int64_t> ids;
      double sum, length;
    };
    std::vector<Text> all;
    const auto grow = [&](auto&& self, const std::vector<int64_t>& ids, double sum) -> void {
      const auto logp = logp_after(model, encoded, ids);
      for (int64_t v = 0; v < kWords; ++v) {
        std::vector<int64_t> next = ids;
        if (v != 0) next.push_back(v);
        const double so_far = sum + logp[static_cast<size_t>(v)];
        const auto length = static_cast<double>(ids.size() + 1);
        if (v == 0 || length == kLength)
          all.push_back({next, so_far, length});
        else
          self(self, next, so_far);
      }
    };
    grow(grow, {}, 0);
    std::vector<std::vector<int64_t>> best;
    for (const auto& [penalty, score] :
         std::vector<std::pair<std::string, std::function<double(const Text&)>>>{
             {"", [](const Text& t) { return t.sum; }},
             {"wu_2", [](const Text& t) { return t.sum / std::pow((5 + t.length) / 6, 2); }},
             {"avg", [](const Text& t) { return t.sum / t.length; }}}) {
      std::stable_sort(all.begin(), all.end(),
                       [&](const Text& a, const Text& b) { return score(a) > score(b); });
      const auto written = write_several(
          model, x,
          {.beam_size = 64, .max_length = kLength, .sample_n = 5, .length_penalty = penalty})[0];
      ASSERT_EQ(written.size(), 5U);
      for (size_t n = 0; n < 5; ++n) {
        EXPECT_EQ(written[n].ids, all[n].ids) << penalty << " " << n;
        EXPECT_NEAR(written[n].log_probability, all[n].sum, 1e-5);
      }
      best.push_back(all[0].ids);
    }
    differ = differ || best[0] != best[2];
  }
  EXPECT_TRUE(differ);  // or the penalties were not tested
}

TEST(Decoding, GroupsAvoidEachOthersWords) {
  EncoderDecoder model = small_model(MemoryKind::rm_mcln);
  const Tensor x = features(2);
  for (const char* method : {"beam_search", "greedy"}) {
    const auto of = [&](double lambda) {
      return write_several(model, x,
                           {.method = method,
                            .beam_size = 4,
                            .max_length = 8,
                            .sample_n = 4,
                            .group_size = 4,
                            .diversity_lambda = lambda});
    };
    const auto alike = of(0), apart = of(1000);
    for (size_t i = 0; i < 2; ++i) {
      ASSERT_EQ(apart[i].size(), 4U);
      EXPECT_EQ(apart[i][0].ids, alike[i][0].ids);  // the first group avoids nobody
      for (size_t a = 0; a < 4; ++a)
        for (size_t b = 0; b < a; ++b) {
          EXPECT_EQ(alike[i][a].ids, alike[i][b].ids);
          const auto &one = apart[i][a].ids, &other = apart[i][b].ids;
          for (size_t t = 0; t < std::min(one.size(), other.size()); ++t)
            EXPECT_NE(one[t], other[t]) << method;
        }
    }
  }
}

TEST(Decoding, ChanceDependsOnTheStudyAndNotOnTheBatch) {
  EncoderDecoder model = small_model(MemoryKind::rm_mcln);
  const Tensor x = features(4);
  for (const char* method : {"sample", "gumbel"}) {
    const DecodingOptions o{.method = method, .max_length = 10, .seed = 5, .sample_n = 2};
    const auto together = write_several(model, x, o);
    for (const int64_t i : {3, 1}) {
      const std::vector<int64_t> study = {i};
      const auto alone = write_several(model, x.rows(i, i + 1).clone(), o, study)[0];
      for (size_t n = 0; n < 2; ++n)
        EXPECT_EQ(alone[n].ids, together[static_cast<size_t>(i)][n].ids) << method;
      EXPECT_NE(alone[0].ids, alone[1].ids);
    }
    const std::vector<int64_t> other = {7, 8, 9, 10};
    EXPECT_NE(write_several(model, x, o, other)[0][0].ids, together[0][0].ids);
  }
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
  EXPECT_THROW(write_reports(model, x, {.sample_n = 4}), Error);
  EXPECT_THROW(write_reports(model, x, {.group_size = 2}), Error);
  for (const char* penalty : {"wu", "wu_", "wu_-1", "wu_x", "mean"})
    EXPECT_THROW(write_reports(model, x, {.length_penalty = penalty}), Error) << penalty;
  EXPECT_THROW(write_reports(model, x, {}, std::vector<int64_t>{1, 2}), Error);
  model.train();
  EXPECT_THROW(write_reports(model, x, {}), Error);
}

}  // namespace
}  // namespace pinion::report
