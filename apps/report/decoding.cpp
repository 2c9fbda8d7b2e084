// SPDX-License-Identifier: Apache-2.0
// Beam search as the published code does it, but for the steps that cannot change its result; and
// words taken one by one.
#include "pinion/apps/report/decoding.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <optional>

#include "pinion/kernels/philox.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

constexpr int64_t kEnd = 0;
constexpr double kNever = -std::numeric_limits<double>::infinity();

// The words of one row so far.
struct Row {
  WrittenReport report;
  bool live = true;
};

// Log-probabilities of the next word of each row, from logits [R,V].
class NextWords {
 public:
  NextWords(const Tensor& logits, double temperature) : vocabulary_(logits.size(1)) {
    const std::vector<float> values = nn::cast(logits, DType::f32).values<float>();
    logp_.assign(values.begin(), values.end());
    for (int64_t r = 0; r < logits.size(0); ++r) {
      double* row = of(r);
      normalise(row);
      if (temperature == 1) continue;
      for (int64_t v = 0; v < vocabulary_; ++v) row[v] /= temperature;
      normalise(row);
    }
  }
  double* of(int64_t row) { return logp_.data() + row * vocabulary_; }
  int64_t vocabulary() const { return vocabulary_; }

 private:
  void normalise(double* row) const {
    const double most = *std::max_element(row, row + vocabulary_);
    PINION_REQUIRE(non_finite, std::isfinite(most), "report: expected finite scores of words, got ",
                   most);
    double sum = 0;
    for (int64_t v = 0; v < vocabulary_; ++v) sum += std::exp(row[v] - most);
    for (int64_t v = 0; v < vocabulary_; ++v) row[v] -= most + std::log(sum);
  }

  int64_t vocabulary_;
  std::vector<double> logp_;
};

void extend(WrittenReport& report, int64_t id, double logp) {
  report.log_probability += logp;
  report.probabilities.push_back(std::exp(logp));
  if (id != kEnd) report.ids.push_back(id);
}

// --- beam search ------------------------------------------------------------------------------

// One report: its rows, and the best of the texts that ended.
class Beam {
 public:
  explicit Beam(int64_t size) : rows_(static_cast<size_t>(size)) {}

  bool finished() const {
    // Sums only fall: a text that goes on cannot overtake one that ended with a higher sum.
    for (const Row& row : rows_)
      if (row.live && !(best_ && row.report.log_probability <= best_->log_probability))
        return false;
    return best_.has_value();
  }
  const WrittenReport& best() const { return *best_; }

  // Takes the best continuations of all rows; `first` is the number of row 0. Writes the parent of
  // each row and its last word.
  void advance(NextWords& next, int64_t first, bool only_first_row, bool last_step, bool constraint,
               std::vector<int64_t>& parents, std::vector<int64_t>& words) {
    struct Candidate {
      double sum;
      size_t row;
      int64_t word;
    };
    std::vector<Candidate> candidates;
    const size_t rows = only_first_row ? 1 : rows_.size();
    for (size_t r = 0; r < rows; ++r) {
      if (!rows_[r].live) continue;
      double* logp = next.of(first + static_cast<int64_t>(r));
      if (constraint && !rows_[r].report.ids.empty()) logp[rows_[r].report.ids.back()] = kNever;
      for (int64_t v = 0; v < next.vocabulary(); ++v)
        candidates.push_back({rows_[r].report.log_probability + logp[v], r, v});
    }
    const size_t count = std::min(rows_.size(), candidates.size());
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(count),
                      candidates.end(), [](const Candidate& a, const Candidate& b) {
                        return a.sum != b.sum ? a.sum > b.sum
                                              : std::pair(a.row, a.word) < std::pair(b.row, b.word);
                      });
    std::vector<Row> taken(rows_.size(), Row{{}, false});
    for (size_t i = 0; i < rows_.size(); ++i) {
      const auto at = static_cast<size_t>(first) + i;
      parents[at] = static_cast<int64_t>(at), words[at] = kEnd;
      if (i >= count) continue;
      const Candidate& c = candidates[i];
      taken[i].report = rows_[c.row].report;
      extend(taken[i].report, c.word, c.sum - rows_[c.row].report.log_probability);
      taken[i].live = c.word != kEnd && !last_step;
      parents[at] = first + static_cast<int64_t>(c.row), words[at] = c.word;
      const bool better = !best_ || taken[i].report.log_probability > best_->log_probability;
      if (!taken[i].live && better) best_ = taken[i].report;
    }
    rows_ = std::move(taken);
  }

 private:
  std::vector<Row> rows_;
  std::optional<WrittenReport> best_;
};

std::vector<WrittenReport> beam_search(EncoderDecoder& model, const Tensor& encoded,
                                       const DecodingOptions& o) {
  const int64_t reports = encoded.size(0), rows = reports * o.beam_size;
  std::vector<Beam> beams(static_cast<size_t>(reports), Beam(o.beam_size));
  std::vector<int64_t> parents(static_cast<size_t>(rows)), words(parents.size(), kEnd);
  EncoderDecoder::State state = model.start(encoded, o.beam_size);
  for (int64_t t = 0; t < o.max_length; ++t) {
    const Tensor ids = Tensor::of(words, {rows}).to(encoded.device());
    NextWords next(model.step(state, ids), t == 0 ? 1 : o.temperature);
    bool finished = true;
    for (int64_t b = 0; b < reports; ++b) {
      Beam& beam = beams[static_cast<size_t>(b)];
      beam.advance(next, b * o.beam_size, t == 0, t + 1 == o.max_length, o.decoding_constraint,
                   parents, words);
      finished = finished && beam.finished();
    }
    if (finished) break;
    EncoderDecoder::reorder(state, parents);
  }
  std::vector<WrittenReport> out;
  for (const Beam& beam : beams) out.push_back(beam.best());
  return out;
}

// --- one row a report -------------------------------------------------------------------------

// How words are drawn: of how many of the likeliest, or of how much probability.
struct Choice {
  bool greedy = false;
  int64_t of_words = std::numeric_limits<int64_t>::max();
  double of_probability = 1;
};

Choice choice_of(const std::string& method) {
  if (method == "greedy") return {.greedy = true};
  if (method == "sample") return {};
  char* end = nullptr;
  const double number = method.starts_with("top") ? std::strtod(method.c_str() + 3, &end) : 0;
  PINION_REQUIRE(usage, end && *end == 0 && number > 0 && std::isfinite(number),
                 "--sample_method: expected beam_search, greedy, sample, topK or top0.P, got ",
                 quoted(method, 64));
  if (number < 1) return {.of_probability = number};
  return {.of_words = static_cast<int64_t>(number)};
}

int64_t choose(const double* logp, int64_t vocabulary, const Choice& choice, float uniform) {
  if (choice.greedy) return std::max_element(logp, logp + vocabulary) - logp;
  std::vector<int64_t> order(static_cast<size_t>(vocabulary));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return logp[a] > logp[b]; });
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && static_cast<int64_t>(count) < choice.of_words &&
         (count == 0 || kept < choice.of_probability))
    kept += std::exp(logp[order[count++]]);
  double left = uniform * kept;
  for (size_t i = 0; i + 1 < count; ++i)
    if ((left -= std::exp(logp[order[i]])) < 0) return order[i];
  return order[count - 1];
}

// 2 log 2 off a word for each time that it followed the last two words before.
void discourage_repeats(double* logp, const std::vector<int64_t>& ids) {
  constexpr double kCost = 0.693 * 2;
  const size_t n = ids.size();
  for (size_t i = 0; n >= 3 && i + 2 < n; ++i)
    if (ids[i] == ids[n - 2] && ids[i + 1] == ids[n - 1]) logp[ids[i + 2]] -= kCost;
}

std::vector<WrittenReport> write_rows(EncoderDecoder& model, const Tensor& encoded,
                                      const DecodingOptions& o) {
  constexpr uint32_t kStream = 0x776f7264;  // "word"
  const Choice choice = choice_of(o.method);
  const int64_t reports = encoded.size(0);
  std::vector<Row> rows(static_cast<size_t>(reports));
  std::vector<int64_t> words(rows.size(), kEnd);
  EncoderDecoder::State state = model.start(encoded, 1);
  for (int64_t t = 0; t < o.max_length; ++t) {
    const Tensor ids = Tensor::of(words, {reports}).to(encoded.device());
    NextWords next(model.step(state, ids), o.temperature);
    bool finished = true;
    for (size_t r = 0; r < rows.size(); ++r) {
      words[r] = kEnd;
      if (!rows[r].live) continue;
      double* logp = next.of(static_cast<int64_t>(r));
      WrittenReport& report = rows[r].report;
      const std::vector<double> as_said(logp, logp + next.vocabulary());  // by the model itself
      if (o.decoding_constraint && !report.ids.empty()) logp[report.ids.back()] = kNever;
      if (o.block_trigrams) discourage_repeats(logp, report.ids);
      const PhiloxKey key{o.seed, kStream, static_cast<uint64_t>(t)};
      words[r] = choose(logp, next.vocabulary(), choice, uniform01(philox(key, r).v[0]));
      extend(report, words[r], as_said[static_cast<size_t>(words[r])]);
      rows[r].live = words[r] != kEnd;
      finished = finished && !rows[r].live;
    }
    if (finished) break;
  }
  std::vector<WrittenReport> out;
  for (Row& row : rows) out.push_back(std::move(row.report));
  return out;
}

}  // namespace

std::vector<WrittenReport> write_reports(EncoderDecoder& model, const Tensor& features,
                                         const DecodingOptions& o) {
  PINION_CHECK(!model.training(), "write_reports: expected a model in evaluation mode");
  PINION_REQUIRE(usage, o.beam_size >= 1, "--beam_size: expected at least 1, got ", o.beam_size);
  PINION_REQUIRE(usage, o.max_length >= 1, "--max_seq_length: expected at least 1, got ",
                 o.max_length);
  PINION_REQUIRE(usage, o.temperature > 0 && std::isfinite(o.temperature),
                 "--temperature: expected a number above 0, got ", o.temperature);
  const NoGrad no_grad;
  const Tensor encoded = model.encode(features);
  return o.method == "beam_search" ? beam_search(model, encoded, o) : write_rows(model, encoded, o);
}

}  // namespace pinion::report
