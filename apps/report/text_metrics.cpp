// SPDX-License-Identifier: Apache-2.0
// The three metrics, over one way to count n-grams.
#include "pinion/apps/report/text_metrics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <unordered_map>

#include "pinion/apps/report/clean_text.h"
#include "pinion/kernels/check.h"

namespace pinion::report {

namespace {

using Words = std::vector<std::string_view>;
// The numbers of an n-gram's words, n from 1 to 4, and 0 behind the last.
using Gram = std::array<int32_t, 4>;
size_t length_of(const Gram& gram) {
  return static_cast<size_t>(std::find(gram.begin(), gram.end(), 0) - gram.begin());
}
// The n-grams of a text in order, and how often each occurs, or what it weighs.
using Counts = std::vector<std::pair<Gram, double>>;

// Numbers words from 1. The texts must outlive it.
class Counter {
 public:
  Counts ngrams(std::string_view text) {
    std::vector<int32_t> numbers;
    for (const std::string_view word : words_of(text))
      numbers.push_back(
          numbers_.try_emplace(word, static_cast<int32_t>(numbers_.size()) + 1).first->second);
    Counts all;
    for (size_t i = 0; i < numbers.size(); ++i) {
      Gram gram{};
      for (size_t n = 0; n < 4 && i + n < numbers.size(); ++n) {
        gram[n] = numbers[i + n];
        all.emplace_back(gram, 1);
      }
    }
    std::sort(all.begin(), all.end());
    Counts counts;
    for (const auto& [gram, one] : all)
      if (!counts.empty() && counts.back().first == gram)
        ++counts.back().second;
      else
        counts.emplace_back(gram, one);
    return counts;
  }

 private:
  std::unordered_map<std::string_view, int32_t> numbers_;
};

double ngrams_of_length(const Counts& counts, size_t n) {
  double sum = 0;
  for (const auto& [gram, count] : counts) sum += length_of(gram) == n ? count : 0;
  return sum;
}

// Calls on(n - 1, its value in a, in b) for each n-gram of both.
template <class F>
void each_common(const Counts& a, const Counts& b, F&& on) {
  auto other = b.begin();
  for (const auto& [gram, value] : a) {
    while (other != b.end() && other->first < gram) ++other;
    if (other != b.end() && other->first == gram) on(length_of(gram) - 1, value, other->second);
  }
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

// The references of a pair: how many words each has, and the most of each n-gram in any one.
struct References {
  std::vector<double> words;
  Counts most;

  References(Counter& counter, const Pair& pair) {
    for (const std::string& reference : pair.references) {
      const Counts counts = counter.ngrams(reference);
      words.push_back(ngrams_of_length(counts, 1));
      most.insert(most.end(), counts.begin(), counts.end());
    }
    std::sort(most.begin(), most.end(), std::greater());  // the most of an n-gram before the rest
    const auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
    most.erase(std::unique(most.begin(), most.end(), same), most.end());
    std::reverse(most.begin(), most.end());
  }
};

BleuCounts bleu_counts(const Counts& hypothesis, const References& references) {
  BleuCounts out;
  for (const auto& [gram, count] : hypothesis) out.guessed[length_of(gram) - 1] += count;
  out.hypothesis_words = out.guessed[0];
  double nearest = -1;
  for (const double words : references.words) {
    const double distance = std::abs(words - out.hypothesis_words);
    const double best = std::abs(nearest - out.hypothesis_words);
    if (nearest < 0 || distance < best || (distance == best && words < nearest)) nearest = words;
  }
  out.reference_words = nearest;
  each_common(hypothesis, references.most,
              [&](size_t n, double own, double most) { out.correct[n] += std::min(own, most); });
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
    for (const Pair& pair : pairs)
      for (const auto& [gram, most] : References(counter_, pair).most) ++segments_with_[gram];
  }

  Weighted of(const std::string& text) {
    Weighted out{counter_.ngrams(text), {}, 0};
    out.bigrams = ngrams_of_length(out.weights, 2);
    for (auto& [gram, weight] : out.weights) {
      const auto found = segments_with_.find(gram);
      const double segments = found == segments_with_.end() ? 1 : found->second;
      weight *= log_segments_ - std::log(segments);
      out.norm[length_of(gram) - 1] += weight * weight;
    }
    for (double& norm : out.norm) norm = std::sqrt(norm);
    return out;
  }

 private:
  Counter counter_;
  std::map<Gram, double> segments_with_;  // references that contain an n-gram
  double log_segments_;
};

// The mean over the lengths of n-grams.
double cider_similarity(const Weighted& hypothesis, const Weighted& reference) {
  constexpr double kSigma = 6;
  const double difference = hypothesis.bigrams - reference.bigrams;
  const double same_length = std::exp(-difference * difference / (2 * kSigma * kSigma));
  std::array<double, 4> dot{};
  each_common(hypothesis.weights, reference.weights, [&](size_t n, double own, double theirs) {
    dot[n] += std::min(own, theirs) * theirs;
  });
  double sum = 0;
  for (size_t n = 0; n < 4; ++n) {
    const double norms = hypothesis.norm[n] * reference.norm[n];
    sum += (norms == 0 ? 0 : dot[n] / norms) * same_length;
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
  Counter counter;
  for (const Pair& pair : pairs) {
    check_pair("bleu", pair);
    const BleuCounts counts =
        bleu_counts(counter.ngrams(pair.hypothesis), References(counter, pair));
    out.segments.push_back(counts.score());
    total.add(counts);
  }
  out.corpus = total.score();
  return out;
}

std::vector<double> bleu_4_of_constants(const std::vector<std::string>& candidates,
                                        const std::vector<Pair>& pairs) {
  Counter counter;
  std::vector<References> references;
  for (const Pair& pair : pairs) {
    check_pair("bleu", pair);
    references.emplace_back(counter, pair);
  }
  std::vector<double> out;
  for (const std::string& candidate : candidates) {
    const Counts counts = counter.ngrams(candidate);
    BleuCounts total;
    for (const References& of_pair : references) total.add(bleu_counts(counts, of_pair));
    out.push_back(total.score()[3]);
  }
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
  CiderWeights weights(pairs);
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
