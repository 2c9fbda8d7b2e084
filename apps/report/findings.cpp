// SPDX-License-Identifier: Apache-2.0
// Draws findings, writes them as reports and reads them back, by the tables of findings_table.cpp.
#include "pinion/apps/report/findings.h"

#include <algorithm>
#include <map>
#include <utility>

#include "pinion/kernels/check.h"
#include "pinion/kernels/philox.h"

namespace pinion::report {

Findings draw_findings(uint64_t seed, uint32_t split, uint64_t index, size_t attributes) {
  constexpr uint32_t kStream = 0x66696e64;  // "find"
  Findings findings;
  for (size_t a = 0; a < attributes; ++a) {
    const PhiloxKey key{seed, kStream + split, index};
    double left = uniform01(philox(key, a).v[0]);
    const auto& values = attribute_table()[a].values;
    size_t value = 0;
    while (value + 1 < values.size() && left >= values[value].share) left -= values[value++].share;
    findings.values[a] = static_cast<uint8_t>(value);
  }
  return findings;
}

Styles draw_styles(Wording wording, uint64_t seed, uint32_t split, uint64_t index) {
  constexpr uint32_t kStream = 0x7374796c;  // "styl"
  const PhiloxKey key{seed, kStream + split, index};
  Styles styles{};
  if (wording == Wording::plain) return styles;
  for (size_t a = 0; a < kAttributes; ++a)
    styles[a] =
        static_cast<uint8_t>(philox(key, wording == Wording::random ? a : 0).v[0] % kStyles);
  return styles;
}

namespace {

// The sentence for several of the findings that stands at the attribute, or none.
const JointSentence* joint_at(size_t attribute, size_t style, const Findings& findings) {
  for (const JointSentence& joint : joint_sentences())
    if (static_cast<size_t>(joint.says[0].first) == attribute && *joint.sentences[style] &&
        std::all_of(joint.says.begin(), joint.says.end(),
                    [&](const auto& finding) { return findings[finding.first] == finding.second; }))
      return &joint;
  return nullptr;
}

}  // namespace

std::string report_of(const Findings& findings, const Styles& styles) {
  std::string text;
  std::array<bool, kAttributes> said{};
  for (size_t a = 0; a < kAttributes; ++a) {
    if (said[a]) continue;
    std::string_view sentence =
        attribute_table()[a].values[findings.values[a]].sentences[styles[a]];
    if (const JointSentence* joint = joint_at(a, styles[a], findings)) {
      sentence = joint->sentences[styles[a]];
      for (const auto& [attribute, value] : joint->says)
        said[static_cast<size_t>(attribute)] = true;
    }
    if (!text.empty() && !sentence.empty()) text += ' ';
    text += sentence;
  }
  return text;
}

namespace {

using Said = std::vector<std::pair<Attribute, uint8_t>>;

// Every sentence of the tables, and what it says.
std::map<std::string_view, Said> all_sentences() {
  std::map<std::string_view, Said> all;
  for (size_t a = 0; a < kAttributes; ++a)
    for (size_t v = 0; v < attribute_table()[a].values.size(); ++v)
      for (const char* sentence : attribute_table()[a].values[v].sentences)
        all[sentence] = {{static_cast<Attribute>(a), static_cast<uint8_t>(v)}};
  for (const JointSentence& joint : joint_sentences())
    for (const char* sentence : joint.sentences) all[sentence] = joint.says;
  all.erase("");
  return all;
}

// Calls on(what it says) for each sentence of the report that ends: nothing for one that is not in
// the tables.
template <class F>
void each_sentence(std::string_view report, F&& on) {
  static const auto known = all_sentences();
  for (size_t dot; (dot = report.find(" .")) != std::string_view::npos;) {
    std::string_view sentence = report.substr(0, dot + 2);
    sentence.remove_prefix(std::min(sentence.find_first_not_of(' '), sentence.size()));
    report.remove_prefix(dot + 2);
    const auto found = known.find(sentence);
    on(found == known.end() ? Said{} : found->second);
  }
}

}  // namespace

Findings findings_in(std::string_view report) {
  Findings findings;
  std::array<bool, kAttributes> said{};
  each_sentence(report, [&](const Said& says) {
    for (const auto& [attribute, value] : says)
      if (!std::exchange(said[static_cast<size_t>(attribute)], true)) findings[attribute] = value;
  });
  return findings;
}

bool says_all_findings(std::string_view report) {
  std::array<int, kAttributes> times{};
  bool known = true;
  each_sentence(report, [&](const Said& says) {
    known = known && !says.empty();
    for (const auto& [attribute, value] : says) ++times[static_cast<size_t>(attribute)];
  });
  for (size_t a = 0; a < kAttributes; ++a)
    if (times[a] != 1 && (a < kAlwaysSaid || times[a] > 1)) return false;
  return known;
}

namespace {

double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double FindingScores::Counts::precision() const {
  return ratio(true_positives, true_positives + false_positives);
}

double FindingScores::Counts::recall() const {
  return ratio(true_positives, true_positives + false_negatives);
}

double FindingScores::Counts::f1() const {
  return ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives);
}

FindingScores score_findings(std::span<const Findings> truth, std::span<const Findings> said) {
  PINION_CHECK(truth.size() == said.size(), "score_findings: expected as many reports as studies, ",
               truth.size(), ", got ", said.size());
  FindingScores scores;
  int64_t exact = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    exact += truth[i] == said[i];
    for (size_t a = 0; a < kAttributes; ++a) {
      const uint8_t is = truth[i].values[a], was_said = said[i].values[a];
      for (auto* counts : {&scores.by_attribute[a], &scores.micro}) {
        counts->true_positives += is != 0 && is == was_said;
        counts->false_positives += was_said != 0 && is != was_said;
        counts->false_negatives += is != 0 && is != was_said;
      }
    }
  }
  scores.studies = static_cast<int64_t>(truth.size());
  scores.exact = ratio(exact, scores.studies);
  return scores;
}

}  // namespace pinion::report
