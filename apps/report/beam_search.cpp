// SPDX-License-Identifier: Apache-2.0
// As the published code does it, but for the steps that cannot change its result: a text that has
// ended is not continued, and a search ends when no open text can become the best.
#include "pinion/apps/report/beam_search.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// What a sum of log-probabilities counts for by the length of its text; never less for longer ones.
class LengthPenalty {
 public:
  explicit LengthPenalty(const std::string& name) {
    char* end = nullptr;
    if (name.starts_with("wu_") && name.size() > 3)
      alpha_ = std::strtod(name.c_str() + 3, &end);
    else
      average_ = name.starts_with("avg");
    PINION_REQUIRE(
        usage, name.empty() || average_ || (end && *end == 0 && alpha_ >= 0 && alpha_ <= 100),
        "--length_penalty: expected wu_A with A >= 0, avg or nothing, got ", quoted(name, 64));
  }
  double operator()(double sum, int64_t length) const {
    const auto l = static_cast<double>(length);
    return average_ ? sum / l : sum / std::pow((5 + l) / 6, alpha_);
  }

 private:
  double alpha_ = 0;
  bool average_ = false;
};

struct Text {
  WrittenReport report;
  double sum = 0;    // by which it is ranked while it is written
  double score = 0;  // by which it is ranked when it is finished
  bool live = true;
};

struct Settings {
  const DecodingOptions& options;
  LengthPenalty penalty;
  size_t width, wanted;  // rows of a group; finished texts of it
};

// One group of one report: its rows, and the best of the texts that ended.
class Group {
 public:
  Group(const Settings& settings, size_t first)
      : settings_(&settings), first_(first), rows_(settings.width) {}

  const std::vector<Text>& done() const { return done_; }

  bool finished() const {
    // Sums only fall, so that no text will count for more than what its sum does at full length.
    return std::none_of(rows_.begin(), rows_.end(), [&](const Text& row) {
      return row.live &&
             (done_.size() < settings_->wanted ||
              settings_->penalty(row.sum, settings_->options.max_length) > done_.back().score);
    });
  }

  // Takes the best continuations of all rows at place t. `costs` of each word at this place is
  // subtracted, and then grows for the groups that come later. Writes the parent of each row and
  // its last word.
  void advance(const NextWords& next, int64_t t, std::vector<double>& costs,
               std::vector<int64_t>& parents, std::vector<int64_t>& words) {
    const std::vector<Candidate> best = candidates(next, t, costs);
    const DecodingOptions& o = settings_->options;
    std::vector<Text> taken(rows_.size());
    for (size_t i = 0; i < rows_.size(); ++i) {
      const size_t at = first_ + i;
      parents[at] = static_cast<int64_t>(at), words[at] = kEndOfReport;
      taken[i].live = false;
      if (i >= best.size()) continue;
      const Candidate& c = best[i];
      taken[i] = rows_[c.row];
      Text& text = taken[i];
      const double logp = next.of(first_ + c.row)[static_cast<size_t>(c.word)];
      text.sum = c.sum;
      text.report.log_probability += logp;
      text.report.probabilities.push_back(std::exp(logp));
      if (c.word != kEndOfReport) text.report.ids.push_back(c.word);
      text.live = c.word != kEndOfReport && t + 1 < o.max_length;
      parents[at] = static_cast<int64_t>(first_ + c.row), words[at] = c.word;
      costs[static_cast<size_t>(c.word)] += o.diversity_lambda;
      if (!text.live) finish(text, t + 1);
    }
    rows_ = std::move(taken);
  }

 private:
  struct Candidate {
    double sum;
    size_t row;
    int64_t word;
    bool operator<(const Candidate& other) const {  // better
      return sum != other.sum ? sum > other.sum
                              : std::pair(row, word) < std::pair(other.row, other.word);
    }
  };

  std::vector<Candidate> candidates(const NextWords& next, int64_t t,
                                    const std::vector<double>& costs) const {
    const DecodingOptions& o = settings_->options;
    std::vector<Candidate> out;
    for (size_t r = 0; r < (t == 0 ? 1 : rows_.size()); ++r) {
      if (!rows_[r].live) continue;
      const auto own = next.of(first_ + r);
      std::vector<double> logp(own.begin(), own.end());
      if (t > 0 && o.temperature != 1) {
        for (double& l : logp) l /= o.temperature;
        normalise(logp);
      }
      if (o.decoding_constraint && t > 0)
        logp[static_cast<size_t>(rows_[r].report.ids.back())] = kNever;
      if (o.forbidden > 0) logp[static_cast<size_t>(o.forbidden)] = kNever;
      for (size_t v = 0; v < logp.size(); ++v)
        if (logp[v] != kNever)
          out.push_back({rows_[r].sum + logp[v] - costs[v], r, static_cast<int64_t>(v)});
    }
    const size_t count = std::min(rows_.size(), out.size());
    std::partial_sort(out.begin(), out.begin() + static_cast<ptrdiff_t>(count), out.end());
    out.resize(count);
    return out;
  }

  void finish(Text& text, int64_t length) {
    text.score = settings_->penalty(text.sum, length);
    const auto after = std::find_if(done_.begin(), done_.end(),
                                    [&](const Text& d) { return d.score < text.score; });
    done_.insert(after, text);
    if (done_.size() > settings_->wanted) done_.pop_back();
  }

  const Settings* settings_;
  size_t first_;
  std::vector<Text> rows_, done_;  // done_ has the best first
};

}  // namespace

void check_beam(const DecodingOptions& o) {
  PINION_REQUIRE(usage, o.beam_size % o.group_size == 0,
                 "--group_size: expected a divisor of the --beam_size ", o.beam_size, ", got ",
                 o.group_size);
  PINION_REQUIRE(usage, o.sample_n <= o.beam_size, "--sample_n: expected at most the --beam_size ",
                 o.beam_size, ", got ", o.sample_n);
  (void)LengthPenalty(o.length_penalty);
}

std::vector<std::vector<WrittenReport>> beam_search(EncoderDecoder& model, const Tensor& encoded,
                                                    const DecodingOptions& o) {
  const auto groups = static_cast<size_t>(o.group_size), beam = static_cast<size_t>(o.beam_size);
  const auto reports = static_cast<size_t>(encoded.size(0)), rows = reports * beam;
  const size_t width = beam / groups;
  const Settings settings{o, LengthPenalty(o.length_penalty), width,
                          std::min(width, static_cast<size_t>(o.sample_n))};
  std::vector<Group> all;
  for (size_t first = 0; first < rows; first += width) all.emplace_back(settings, first);

  NextWords next(model, encoded, o.beam_size, o.cached);
  std::vector<int64_t> parents(rows), words(rows, kEndOfReport);
  for (int64_t t = 0; t < o.max_length; ++t) {
    next.read(words);
    std::vector<double> costs;
    for (size_t g = 0; g < all.size(); ++g) {
      if (g % groups == 0) costs.assign(next.of(0).size(), 0);
      all[g].advance(next, t, costs, parents, words);
    }
    if (std::all_of(all.begin(), all.end(), [](const Group& g) { return g.finished(); })) break;
    next.reorder(parents);
  }
  std::vector<std::vector<WrittenReport>> out(reports);
  for (size_t g = 0; g < all.size(); ++g)
    for (const Text& text : all[g].done())
      if (out[g / groups].size() < static_cast<size_t>(o.sample_n))
        out[g / groups].push_back(text.report);
  return out;
}

}  // namespace pinion::report
