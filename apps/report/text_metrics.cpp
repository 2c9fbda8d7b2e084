// SPDX-License-Identifier: Apache-2.0
// The three metrics, over one way to count n-grams.
#include "pinion/apps/report/text_metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "pinion/apps/report/clean_text.h"
#include "pinion/kernels/check.h"

namespace pinion::report {

namespace {

using Words = std::vector<std::string_view>;
// n-grams of each length from 1 to 4, each as its words' text, with how often they occur. The texts
// lie in the report: words are neighbours there, one space apart or not.
using Counts = std::array<std::map<Words, double>, 4>;

Counts ngrams(const Words& words) {
  Counts counts;
  for (size_t n = 1; n <= 4; ++n)
    for (size_t i = 0; i + n <= words.size(); ++i)
      ++counts[n - 1][Words(words.begin() + static_cast<ptrdiff_t>(i),
                            words.begin() + static_cast<ptrdiff_t>(i + n))];
  return counts;
}

void check_pair(const char* metric, const Pair& pair) {
  PINION_CHECK(!pair.references.empty(), metric, ": expected at least one reference, got none");
}

struct BleuCounts {
  double hypothesis_words = 0, reference_words = 0;
  std::array<double, 4> correct{}, guessed{};

  void add(const BleuCounts& other) {
    hypothesis_words += other.hypothesis_words;
    reference_words += other.reference_words;
    for (size_t n = 0; n < 4; ++n) correct[n] += other.correct[n], guessed[n] += other.guessed[n];
  }
  std::array<double, 4> score() const {
    constexpr double kTiny = 1e-15, kSmall = 1e-9;  // keep empty texts from dividing by zero
    const double ratio = (hypothesis_words + kTiny) / (reference_words + kSmall);
    std::array<double, 4> out{};
    double product = 1;
    for (size_t n = 0; n < 4; ++n) {
      product *= (correct[n] + kTiny) / (guessed[n] + kSmall);
      out[n] = std::pow(product, 1.0 / static_cast<double>(n + 1));
      if (ratio < 1) out[n] *= std::exp(1 - 1 / ratio);
    }
    return out;
  }
};

BleuCounts bleu_counts(const Pair& pair) {
  const Words hypothesis = words_of(pair.hypothesis);
  BleuCounts out;
  out.hypothesis_words = static_cast<double>(hypothesis.size());
  Counts most;  // of any one reference
  double nearest = -1;
  for (const std::string& reference : pair.references) {
    const Words words = words_of(reference);
    const Counts counts = ngrams(words);
    for (size_t n = 0; n < 4; ++n)
      for (const auto& [gram, count] : counts[n]) most[n][gram] = std::max(most[n][gram], count);
    const auto length = static_cast<double>(words.size());
    const double distance = std::abs(length - out.hypothesis_words);
    const double best = std::abs(nearest - out.hypothesis_words);
    if (nearest < 0 || distance < best || (distance == best && length < nearest)) nearest = length;
  }
  out.reference_words = nearest;
  const Counts counts = ngrams(hypothesis);
  for (size_t n = 0; n < 4; ++n) {
    out.guessed[n] = std::max(0.0, out.hypothesis_words - static_cast<double>(n));
    for (const auto& [gram, count] : counts[n]) {
      const auto found = most[n].find(gram);
      if (found != most[n].end()) out.correct[n] += std::min(count, found->second);
    }
  }
  return out;
}

// Words between single spaces; an empty text has one empty word.
Words split_by_spaces(std::string_view text) {
  Words words;
  for (size_t at = 0;;) {
    const size_t end = std::min(text.find(' ', at), text.size());
    words.push_back(text.substr(at, end - at));
    if (end == text.size()) return words;
    at = end + 1;
  }
}

double common_subsequence(const Words& a, const Words& b) {
  std::vector<int> row(b.size() + 1), above(b.size() + 1);
  for (const std::string_view word : a) {
    std::swap(row, above);
    for (size_t j = 0; j < b.size(); ++j)
      row[j + 1] = word == b[j] ? above[j] + 1 : std::max(above[j + 1], row[j]);
  }
  return row.back();
}

double rouge_segment(const Pair& pair) {
  constexpr double kBeta2 = 1.2 * 1.2;
  const Words hypothesis = split_by_spaces(pair.hypothesis);
  double precision = 0, recall = 0;
  for (const std::string& reference : pair.references) {
    const Words words = split_by_spaces(reference);
    const double common = common_subsequence(hypothesis, words);
    precision = std::max(precision, common / static_cast<double>(hypothesis.size()));
    recall = std::max(recall, common / static_cast<double>(words.size()));
  }
  if (precision == 0 || recall == 0) return 0;
  return (1 + kBeta2) * precision * recall / (recall + kBeta2 * precision);
}

// A text as a vector of tf-idf weights for each length of n-grams.
struct Weighted {
  Counts weights;
  std::array<double, 4> norm{};
  double bigrams = 0;
};

class CiderWeights {
 public:
  explicit CiderWeights(const std::vector<Pair>& pairs)
      : log_segments_(std::log(static_cast<double>(pairs.size()))) {
    for (const Pair& pair : pairs) {
      std::set<Words> seen;
      for (const std::string& reference : pair.references)
        for (const auto& grams : ngrams(words_of(reference)))
          for (const auto& [gram, count] : grams) seen.insert(gram);
      for (const Words& gram : seen) ++segments_with_[gram];
    }
  }

  Weighted of(const std::string& text) const {
    Weighted out{ngrams(words_of(text)), {}, 0};
    for (const auto& [gram, count] : out.weights[1]) out.bigrams += count;
    for (size_t n = 0; n < 4; ++n) {
      for (auto& [gram, weight] : out.weights[n]) {
        const auto found = segments_with_.find(gram);
        const double segments = found == segments_with_.end() ? 1 : found->second;
        weight *= log_segments_ - std::log(segments);
        out.norm[n] += weight * weight;
      }
      out.norm[n] = std::sqrt(out.norm[n]);
    }
    return out;
  }

 private:
  std::map<Words, double> segments_with_;  // references that contain an n-gram
  double log_segments_;
};

// The mean over the lengths of n-grams.
double cider_similarity(const Weighted& hypothesis, const Weighted& reference) {
  constexpr double kSigma = 6;
  const double difference = hypothesis.bigrams - reference.bigrams;
  const double same_length = std::exp(-difference * difference / (2 * kSigma * kSigma));
  double sum = 0;
  for (size_t n = 0; n < 4; ++n) {
    double dot = 0;
    for (const auto& [gram, weight] : hypothesis.weights[n]) {
      const auto found = reference.weights[n].find(gram);
      if (found != reference.weights[n].end())
        dot += std::min(weight, found->second) * found->second;
    }
    const double norms = hypothesis.norm[n] * reference.norm[n];
    sum += (norms == 0 ? 0 : dot / norms) * same_length;
  }
  return sum / 4;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

BleuScore bleu(const std::vector<Pair>& pairs) {
  BleuScore out;
  BleuCounts total;
  for (const Pair& pair : pairs) {
    check_pair("bleu", pair);
    const BleuCounts counts = bleu_counts(pair);
    out.segments.push_back(counts.score());
    total.add(counts);
  }
  out.corpus = total.score();
  return out;
}

Score rouge_l(const std::vector<Pair>& pairs) {
  Score out;
  for (const Pair& pair : pairs) {
    check_pair("rouge_l", pair);
    out.segments.push_back(rouge_segment(pair));
  }
  out.corpus = mean(out.segments);
  return out;
}

Score cider_d(const std::vector<Pair>& pairs) {
  for (const Pair& pair : pairs) check_pair("cider_d", pair);
  const CiderWeights weights(pairs);
  Score out;
  for (const Pair& pair : pairs) {
    const Weighted hypothesis = weights.of(pair.hypothesis);
    double sum = 0;
    for (const std::string& reference : pair.references)
      sum += cider_similarity(hypothesis, weights.of(reference));
    out.segments.push_back(10 * sum / static_cast<double>(pair.references.size()));
  }
  out.corpus = mean(out.segments);
  return out;
}

}  // namespace pinion::report
