// SPDX-License-Identifier: Apache-2.0
// Words, their possible matches, the best alignment by beam search, and the score of its counts.
#include "pinion/apps/report/meteor.h"

#include <libstemmer.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <unordered_set>

#include "pinion/kernels/check.h"

namespace pinion::report {

namespace {

constexpr double kAlpha = .85, kBeta = .2, kGamma = .6, kDelta = .75;
constexpr double kStemWeight = .6, kSynonymWeight = .8;

bool is_function_word(const std::string& word) {
  static const std::unordered_set<std::string> kWords = {
      ".",    ",",     ":",     ";",     "?",    "!",     "\"",    "'",     "(",    ")",
      "-",    "a",     "about", "after", "all",  "also",  "an",    "and",   "are",  "as",
      "at",   "be",    "been",  "but",   "by",   "can",   "could", "did",   "do",   "for",
      "from", "had",   "has",   "have",  "he",   "her",   "his",   "i",     "if",   "in",
      "into", "is",    "it",    "its",   "more", "no",    "not",   "of",    "on",   "one",
      "only", "or",    "other", "our",   "out",  "she",   "so",    "some",  "such", "than",
      "that", "the",   "their", "them",  "then", "there", "these", "they",  "this", "those",
      "to",   "up",    "was",   "we",    "were", "what",  "when",  "which", "who",  "will",
      "with", "would", "you"};
  return kWords.contains(word);
}

// An English stemmer; one thread at a time.
class Stemmer {
 public:
  Stemmer() : stemmer_(sb_stemmer_new("english", "UTF_8"), sb_stemmer_delete) {
    PINION_REQUIRE(internal, stemmer_ != nullptr, "METEOR_es: expected libstemmer to know English");
  }
  std::string operator()(const std::string& word) const {
    const auto* text = reinterpret_cast<const sb_symbol*>(word.data());
    const sb_symbol* stem = sb_stemmer_stem(stemmer_.get(), text, static_cast<int>(word.size()));
    if (!stem) return word;
    return {reinterpret_cast<const char*>(stem),
            static_cast<size_t>(sb_stemmer_length(stemmer_.get()))};
  }

 private:
  std::unique_ptr<sb_stemmer, decltype(&sb_stemmer_delete)> stemmer_;
};

// Words in small letters. Each mark stands alone, but for a hyphen between letters, which parts
// them, and a point or comma between digits, which belongs to the number.
std::vector<std::string> words_for_meteor(const std::string& text) {
  const auto at = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : ' '; };
  const auto digit = [](int c) { return c >= '0' && c <= '9'; };
  const auto letter = [&](int c) {
    return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
  };
  std::vector<std::string> words;
  bool open = false;  // the last word may grow
  for (size_t i = 0; i < text.size(); ++i) {
    const int c = at(i), before = i > 0 ? at(i - 1) : ' ', next = at(i + 1);
    const bool inner = (c == '.' || c == ',') && digit(before) && digit(next);
    const bool space = c <= ' ' || (c == '-' && letter(before) && letter(next));
    const bool part = letter(c) || inner;
    if (!space) {
      if (!part || !open) words.emplace_back();
      words.back() += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    open = part;
  }
  return words;
}

struct Text {
  std::vector<std::string> words, stems;       // stems are empty where that stage is left out
  std::vector<std::vector<uint32_t>> synsets;  // and so are these
};

struct Match {
  size_t hypothesis;  // place of its word
  double weight;      // by its stage

  bool exact() const { return weight == 1; }
};
using Matches = std::vector<std::vector<Match>>;  // of each reference word

bool meet(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  for (size_t i = 0, j = 0; i < a.size() && j < b.size(); a[i] < b[j] ? ++i : ++j)
    if (a[i] == b[j]) return true;
  return false;
}

// Of all stages, one stage after the other.
Matches find_matches(const Text& hypothesis, const Text& reference) {
  Matches all(reference.words.size());
  const auto stage = [&](double weight, auto&& match) {
    for (size_t h = 0; h < hypothesis.words.size(); ++h)
      for (size_t r = 0; r < all.size(); ++r)
        if ((hypothesis.words[h] == reference.words[r]) == (weight == 1) && match(h, r))
          all[r].push_back({h, weight});
  };
  stage(1, [](size_t, size_t) { return true; });
  if (hypothesis.words == reference.words) return all;  // what is the same needs nothing else
  if (!hypothesis.stems.empty())
    stage(kStemWeight,
          [&](size_t h, size_t r) { return hypothesis.stems[h] == reference.stems[r]; });
  if (!hypothesis.synsets.empty())
    stage(kSynonymWeight,
          [&](size_t h, size_t r) { return meet(hypothesis.synsets[h], reference.synsets[r]); });
  return all;
}

// A way to match the reference words before some place.
struct Path {
  int64_t exact = 0;     // matches of the same word; the others do not count in the comparison
  int64_t chunks = 0;    // closed ones
  int64_t distance = 0;  // of places
  size_t expected = 0;   // place behind the last match, where the open chunk would go on; 0: none
  std::vector<const Match*> chosen;  // of each reference word, or none

  bool uses(size_t hypothesis) const {
    return std::any_of(chosen.begin(), chosen.end(),
                       [&](const Match* m) { return m && m->hypothesis == hypothesis; });
  }
  void take(size_t place, const Match& match) {
    chosen[place] = &match;
    exact += match.exact();
    if (expected != 0 && expected != match.hypothesis) ++chunks;
    expected = match.hypothesis + 1;
  }
  void close() {
    if (expected != 0) ++chunks;
    expected = 0;
  }
  bool operator<(const Path& other) const {
    if (exact != other.exact) return exact > other.exact;
    return chunks != other.chunks ? chunks < other.chunks : distance < other.distance;
  }
};

int64_t distance_of(size_t place, const Match& match) {
  return std::abs(static_cast<int64_t>(place) - static_cast<int64_t>(match.hypothesis));
}

// Beam search along the reference. The distance of a match that is one of several choices goes to
// the path that it leaves, not to its own: the published program does so, and ties depend on it.
Path align(const Matches& matches, size_t hypothesis_words) {
  constexpr size_t kBeam = 40;
  std::vector<int> partners(hypothesis_words);
  for (const auto& of_word : matches)
    for (const Match& m : of_word) ++partners[m.hypothesis];
  std::vector<Path> paths(1), next;
  paths[0].chosen.resize(matches.size());
  for (size_t place = 0; place < matches.size(); ++place) {
    const std::vector<Match>& choices = matches[place];
    const bool fixed = choices.size() == 1 && partners[choices[0].hypothesis] == 1;
    next.clear();
    for (size_t rank = 0; rank < std::min(kBeam, paths.size()); ++rank) {
      Path& path = paths[rank];
      for (const Match& match : choices) {
        if (!fixed && path.uses(match.hypothesis)) continue;
        next.push_back(path);
        next.back().take(place, match);
        (fixed ? next.back() : path).distance += distance_of(place, match);
      }
      if (fixed) continue;
      path.close();
      next.push_back(std::move(path));
    }
    paths.swap(next);
    std::stable_sort(paths.begin(), paths.end());
  }
  for (Path& path : paths) path.close();
  std::stable_sort(paths.begin(), paths.end());
  return std::move(paths.front());
}

// What the score of a segment, or of several together, is computed from.
struct Counts {
  double hypothesis = 0, reference = 0;                  // words by their weight .75 or .25
  double hypothesis_matched = 0, reference_matched = 0;  // the same of matched ones, by stage
  double hypothesis_words = 0, reference_words = 0, matched = 0, chunks = 0;

  bool perfect() const {
    return matched == hypothesis_words && matched == reference_words && chunks == 1;
  }
  void add(const Counts& other) {
    hypothesis += other.hypothesis, reference += other.reference;
    hypothesis_matched += other.hypothesis_matched, reference_matched += other.reference_matched;
    hypothesis_words += other.hypothesis_words, reference_words += other.reference_words;
    matched += other.matched;
    if (!other.perfect()) chunks += other.chunks;
  }
  double score() const {
    const double p = hypothesis_matched / hypothesis, r = reference_matched / reference;
    const double f = 1 / ((1 - kAlpha) / p + kAlpha / r);
    const double fragmentation = perfect() ? 0 : chunks / matched;
    const double score = f * (1 - kGamma * std::pow(fragmentation, kBeta));
    return std::isnan(score) ? 0 : score;
  }
};

double weight_of(const std::string& word) { return is_function_word(word) ? 1 - kDelta : kDelta; }

Counts counts_of(const Text& hypothesis, const Text& reference) {
  const Matches matches = find_matches(hypothesis, reference);
  const Path path = align(matches, hypothesis.words.size());
  Counts out;
  out.hypothesis_words = static_cast<double>(hypothesis.words.size());
  out.reference_words = static_cast<double>(reference.words.size());
  out.chunks = static_cast<double>(path.chunks);
  for (const std::string& word : hypothesis.words) out.hypothesis += weight_of(word);
  for (const std::string& word : reference.words) out.reference += weight_of(word);
  for (size_t place = 0; place < path.chosen.size(); ++place)
    if (const Match* match = path.chosen[place]) {
      out.hypothesis_matched += match->weight * weight_of(hypothesis.words[match->hypothesis]);
      out.reference_matched += match->weight * weight_of(reference.words[place]);
      ++out.matched;
    }
  return out;
}

// text_of(report) has what the stages need.
template <class F>
Score score_of(const std::vector<Pair>& pairs, F&& text_of) {
  Score out;
  Counts sum;
  for (const Pair& pair : pairs) {
    PINION_CHECK(!pair.references.empty(), "METEOR: expected at least one reference, got none");
    const Text hypothesis = text_of(pair.hypothesis);
    Counts best;
    double best_score = -1;
    for (const std::string& reference : pair.references) {
      const Counts counts = counts_of(hypothesis, text_of(reference));
      const double score = counts.score();
      if (score > best_score) best_score = score, best = counts;
    }
    out.segments.push_back(best_score);
    sum.add(best);
  }
  out.corpus = sum.score();
  return out;
}

Text with_stems(const std::string& report, const Stemmer& stem) {
  Text text{words_for_meteor(report), {}, {}};
  for (const std::string& word : text.words) text.stems.push_back(stem(word));
  return text;
}

}  // namespace

Score meteor_es(const std::vector<Pair>& pairs, MeteorStages stages) {
  const Stemmer stem;
  return score_of(pairs, [&](const std::string& report) {
    return stages == MeteorStages::exact ? Text{words_for_meteor(report), {}, {}}
                                         : with_stems(report, stem);
  });
}

Score meteor_ess(const std::vector<Pair>& pairs, const WordNet& wordnet) {
  const Stemmer stem;
  return score_of(pairs, [&](const std::string& report) {
    Text text = with_stems(report, stem);
    for (const std::string& word : text.words) text.synsets.push_back(wordnet.synsets(word));
    return text;
  });
}

}  // namespace pinion::report
