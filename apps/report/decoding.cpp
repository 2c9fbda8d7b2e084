// SPDX-License-Identifier: Apache-2.0
// Checks the options, and takes words one by one: the likeliest, or one drawn by chance.
#include "pinion/apps/report/decoding.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>

#include "pinion/apps/report/beam_search.h"
#include "pinion/apps/report/next_words.h"
#include "pinion/kernels/philox.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// How a word is chosen: of how many of the likeliest, or of how much probability.
struct Choice {
  bool greedy = false, gumbel = false;
  int64_t of_words = std::numeric_limits<int64_t>::max();
  double of_probability = 1;
};

Choice choice_of(const std::string& method) {
  if (method == "greedy") return {.greedy = true};
  if (method == "gumbel") return {.gumbel = true};
  if (method == "sample") return {};
  char* end = nullptr;
  const double number = method.starts_with("top") ? std::strtod(method.c_str() + 3, &end) : 0;
  PINION_REQUIRE(usage, end && *end == 0 && number > 0 && number <= 1e9,
                 "--sample_method: expected beam_search, greedy, sample, gumbel, topK or top0.P, "
                 "got ",
                 quoted(method, 64));
  if (number < 1) return {.of_probability = number};
  return {.of_words = static_cast<int64_t>(number)};
}

// Random numbers of one place in the report of one row.
struct Chance {
  PhiloxKey key;
  uint64_t row;

  float of(size_t word, size_t vocabulary) const {
    return uniform01(philox(key, row * vocabulary + word).v[0]);
  }
};

int64_t draw(std::vector<double> logp, const Choice& choice, double temperature, float uniform) {
  for (double& l : logp) l /= temperature;
  normalise(logp);
  std::vector<int64_t> order(logp.size());
  std::iota(order.begin(), order.end(), 0);
  const auto p = [&](int64_t word) { return std::exp(logp[static_cast<size_t>(word)]); };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return logp[static_cast<size_t>(a)] > logp[static_cast<size_t>(b)];
  });
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && static_cast<int64_t>(count) < choice.of_words &&
         (count == 0 || kept < choice.of_probability))
    kept += p(order[count++]);
  double left = uniform * kept;
  for (size_t i = 0; i + 1 < count; ++i)
    if ((left -= p(order[i])) < 0) return order[i];
  while (count > 1 && p(order[count - 1]) == 0) --count;  // never a word that is forbidden
  return order[count - 1];
}

int64_t choose(std::vector<double> logp, const Choice& choice, double temperature,
               const Chance& chance) {
  if (!choice.greedy && !choice.gumbel)
    return draw(std::move(logp), choice, temperature, chance.of(0, logp.size()));
  if (choice.gumbel)
    for (size_t v = 0; v < logp.size(); ++v)
      logp[v] -= std::log(-std::log(static_cast<double>(chance.of(v, logp.size())) + 1e-20));
  return std::max_element(logp.begin(), logp.end()) - logp.begin();
}

// 2 log 2 off a word for each time that it followed the last two words before.
void discourage_repeats(std::vector<double>& logp, const std::vector<int64_t>& ids) {
  constexpr double kCost = 0.693 * 2;
  const size_t n = ids.size();
  for (size_t i = 0; n >= 3 && i + 2 < n; ++i)
    if (ids[i] == ids[n - 2] && ids[i + 1] == ids[n - 1])
      logp[static_cast<size_t>(ids[i + 2])] -= kCost;
}

struct Row {
  WrittenReport report;
  bool live = true;

  void extend(int64_t word, double logp) {
    report.log_probability += logp;
    report.probabilities.push_back(std::exp(logp));
    if (word != kEndOfReport) report.ids.push_back(word);
    live = word != kEndOfReport;
  }
};

std::vector<std::vector<WrittenReport>> write_rows(EncoderDecoder& model, const Tensor& encoded,
                                                   const DecodingOptions& o,
                                                   std::span<const int64_t> studies) {
  constexpr uint32_t kStream = 0x776f7264;  // "word"
  const Choice choice = choice_of(o.method);
  const bool groups = o.group_size > 1;
  const auto copies = static_cast<size_t>(groups ? o.group_size : o.sample_n);
  std::vector<Row> rows(static_cast<size_t>(encoded.size(0)) * copies);
  std::vector<int64_t> words(rows.size(), kEndOfReport);
  NextWords next(model, encoded, static_cast<int64_t>(copies), o.cached);
  for (int64_t t = 0; t < o.max_length; ++t) {
    next.read(words);
    std::vector<double> costs;
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto own = next.of(r);
      if (r % copies == 0) costs.assign(own.size(), 0);
      words[r] = kEndOfReport;
      if (!rows[r].live) continue;
      const std::vector<int64_t>& ids = rows[r].report.ids;
      std::vector<double> logp(own.begin(), own.end());
      if (groups) std::transform(own.begin(), own.end(), costs.begin(), logp.begin(), std::minus());
      if (o.decoding_constraint && !ids.empty()) logp[static_cast<size_t>(ids.back())] = kNever;
      if (o.forbidden > 0) logp[static_cast<size_t>(o.forbidden)] = kNever;
      if (o.block_trigrams) discourage_repeats(logp, ids);
      const uint64_t study =
          studies.empty() ? r / copies : static_cast<uint64_t>(studies[r / copies]);
      const Chance chance{{o.seed, kStream, static_cast<uint64_t>(t)}, study * copies + r % copies};
      words[r] = choose(std::move(logp), choice, o.temperature, chance);
      const auto word = static_cast<size_t>(words[r]);
      costs[word] += o.diversity_lambda;
      rows[r].extend(words[r], own[word]);
    }
    if (std::none_of(rows.begin(), rows.end(), [](const Row& row) { return row.live; })) break;
  }
  std::vector<std::vector<WrittenReport>> out(rows.size() / copies);
  for (size_t r = 0; r < rows.size(); ++r) out[r / copies].push_back(std::move(rows[r].report));
  return out;
}

}  // namespace

void check(const DecodingOptions& o) {
  const auto at_least_one = [](const char* flag, int64_t value) {
    PINION_REQUIRE(usage, value >= 1, flag, ": expected at least 1, got ", value);
  };
  at_least_one("--beam_size", o.beam_size);
  at_least_one("--max_seq_length", o.max_length);
  at_least_one("--sample_n", o.sample_n);
  at_least_one("--group_size", o.group_size);
  PINION_REQUIRE(usage, o.temperature > 0 && std::isfinite(o.temperature),
                 "--temperature: expected a number above 0, got ", o.temperature);
  PINION_REQUIRE(usage, o.diversity_lambda >= 0 && std::isfinite(o.diversity_lambda),
                 "--diversity_lambda: expected a number of at least 0, got ", o.diversity_lambda);
  if (o.method == "beam_search")
    check_beam(o);
  else
    (void)choice_of(o.method);
}

std::vector<std::vector<WrittenReport>> write_several(EncoderDecoder& model, const Tensor& features,
                                                      const DecodingOptions& o,
                                                      std::span<const int64_t> studies) {
  PINION_CHECK(!model.training(), "write_reports: expected a model in evaluation mode");
  PINION_CHECK(studies.empty() || static_cast<int64_t>(studies.size()) == features.size(0),
               "write_reports: expected the numbers of ", features.size(0), " studies, got ",
               studies.size());
  check(o);
  const NoGrad no_grad;
  const Tensor encoded = model.encode(features);
  return o.method == "beam_search" ? beam_search(model, encoded, o)
                                   : write_rows(model, encoded, o, studies);
}

std::vector<WrittenReport> write_reports(EncoderDecoder& model, const Tensor& features,
                                         const DecodingOptions& options,
                                         std::span<const int64_t> studies) {
  std::vector<WrittenReport> out;
  for (auto& reports : write_several(model, features, options, studies))
    out.push_back(std::move(reports.front()));
  return out;
}

}  // namespace pinion::report
