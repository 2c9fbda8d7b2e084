// SPDX-License-Identifier: Apache-2.0
// The table, and the four functions that read it.
#include "pinion/apps/report/findings.h"

#include "pinion/kernels/check.h"
#include "pinion/kernels/philox.h"

namespace pinion::report {

const std::array<AttributeInfo, kAttributes>& attribute_table() {
  static const std::array<AttributeInfo, kAttributes> table = {{
      {"heart",
       {{"normal", .55, "heart size is normal ."},
        {"mild", .25, "heart is mildly enlarged ."},
        {"marked", .20, "heart is markedly enlarged ."}}},
      {"opacity",
       {{"none", .52, "lungs are clear ."},
        {"right upper", .12, "opacity in right upper lobe ."},
        {"right lower", .12, "opacity in right lower lobe ."},
        {"left upper", .12, "opacity in left upper lobe ."},
        {"left lower", .12, "opacity in left lower lobe ."}}},
      {"effusion",
       {{"none", .60, "no pleural effusion ."},
        {"left", .15, "left pleural effusion ."},
        {"right", .15, "right pleural effusion ."},
        {"both", .10, "bilateral pleural effusion ."}}},
      {"pneumothorax",
       {{"none", .74, "no pneumothorax ."},
        {"left", .13, "left sided pneumothorax ."},
        {"right", .13, "right sided pneumothorax ."}}},
      {"spine",
       {{"normal", .70, "spine is normal ."}, {"degenerative", .30, "degenerative spine ."}}},
      {"device",
       {{"none", .70, "no device ."},
        {"pacemaker", .15, "pacemaker in place ."},
        {"central line", .15, "central line in place ."}}},
  }};
  return table;
}

Findings draw_findings(uint64_t seed, uint32_t split, uint64_t index) {
  constexpr uint32_t kStream = 0x66696e64;  // "find"
  Findings findings;
  for (size_t a = 0; a < kAttributes; ++a) {
    const PhiloxKey key{seed, kStream + split, index};
    double left = uniform01(philox(key, a).v[0]);
    const auto& values = attribute_table()[a].values;
    size_t value = 0;
    while (value + 1 < values.size() && left >= values[value].share) left -= values[value++].share;
    findings.values[a] = static_cast<uint8_t>(value);
  }
  return findings;
}

std::string report_of(const Findings& findings) {
  std::string text;
  for (size_t a = 0; a < kAttributes; ++a) {
    if (a > 0) text += ' ';
    text += attribute_table()[a].values[findings.values[a]].sentence;
  }
  return text;
}

Findings findings_in(std::string_view report) {
  Findings findings;
  std::array<bool, kAttributes> said{};
  while (!report.empty()) {
    const size_t dot = report.find(" .");
    if (dot == std::string_view::npos) break;
    std::string_view sentence = report.substr(0, dot + 2);
    sentence.remove_prefix(std::min(sentence.find_first_not_of(' '), sentence.size()));
    report.remove_prefix(dot + 2);
    for (size_t a = 0; a < kAttributes; ++a) {
      const auto& values = attribute_table()[a].values;
      for (size_t v = 0; v < values.size(); ++v) {
        if (sentence != values[v].sentence || said[a]) continue;
        findings.values[a] = static_cast<uint8_t>(v);
        said[a] = true;
      }
    }
  }
  return findings;
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
