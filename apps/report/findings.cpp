// SPDX-License-Identifier: Apache-2.0
// The table, and the functions that read it.
#include "pinion/apps/report/findings.h"

#include <map>
#include <utility>

#include "pinion/kernels/check.h"
#include "pinion/kernels/philox.h"

namespace pinion::report {

const std::array<AttributeInfo, kAttributes>& attribute_table() {
  static const std::array<AttributeInfo, kAttributes> table = {{
      {"heart",
       {{"normal",
         .55,
         {"heart size is normal .", "the cardiac silhouette is within normal limits .",
          "normal heart ."}},
        {"mild",
         .25,
         {"heart is mildly enlarged .", "there is mild cardiomegaly .",
          "the cardiac silhouette is mildly prominent ."}},
        {"marked",
         .20,
         {"heart is markedly enlarged .", "there is severe cardiomegaly .",
          "the cardiac silhouette is grossly prominent ."}}}},
      {"opacity",
       {{"none",
         .52,
         {"lungs are clear .", "no focal consolidation .", "the lungs are free of infiltrate ."}},
        {"right upper",
         .12,
         {"opacity in right upper lobe .", "right upper lobe consolidation is seen .",
          "there is airspace disease in the upper right lung ."}},
        {"right lower",
         .12,
         {"opacity in right lower lobe .", "right lower lobe consolidation is seen .",
          "there is airspace disease in the lower right lung ."}},
        {"left upper",
         .12,
         {"opacity in left upper lobe .", "left upper lobe consolidation is seen .",
          "there is airspace disease in the upper left lung ."}},
        {"left lower",
         .12,
         {"opacity in left lower lobe .", "left lower lobe consolidation is seen .",
          "there is airspace disease in the lower left lung ."}}}},
      {"effusion",
       {{"none",
         .60,
         {"no pleural effusion .", "the costophrenic angles are sharp .",
          "there is no pleural fluid ."}},
        {"left",
         .15,
         {"left pleural effusion .", "the left costophrenic angle is blunted .",
          "there is pleural fluid on the left ."}},
        {"right",
         .15,
         {"right pleural effusion .", "the right costophrenic angle is blunted .",
          "there is pleural fluid on the right ."}},
        {"both",
         .10,
         {"bilateral pleural effusion .", "both costophrenic angles are blunted .",
          "there is pleural fluid on both sides ."}}}},
      {"pneumothorax",
       {{"none",
         .74,
         {"no pneumothorax .", "no evidence of pneumothorax .",
          "the pleural spaces hold no air ."}},
        {"left",
         .13,
         {"left sided pneumothorax .", "an apical pneumothorax is seen on the left .",
          "there is air in the left pleural space ."}},
        {"right",
         .13,
         {"right sided pneumothorax .", "an apical pneumothorax is seen on the right .",
          "there is air in the right pleural space ."}}}},
      {"spine",
       {{"normal",
         .70,
         {"spine is normal .", "the osseous structures are intact .",
          "no bony abnormality of the spine ."}},
        {"degenerative",
         .30,
         {"degenerative spine .", "degenerative changes of the thoracic spine are noted .",
          "there are osteophytes along the spine ."}}}},
      {"device",
       {{"none", .70, {"no device .", "no support apparatus .", "there are no lines or leads ."}},
        {"pacemaker",
         .15,
         {"pacemaker in place .", "a pacemaker overlies the left chest .",
          "cardiac leads are present ."}},
        {"central line",
         .15,
         {"central line in place .", "a central venous catheter is seen .",
          "a line ends in the superior vena cava ."}}}},
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

std::string report_of(const Findings& findings, const Styles& styles) {
  std::string text;
  for (size_t a = 0; a < kAttributes; ++a) {
    if (a > 0) text += ' ';
    text += attribute_table()[a].values[findings.values[a]].sentences[styles[a]];
  }
  return text;
}

namespace {

// Calls on(attribute, value) for each sentence of the report that ends, and on(kAttributes, 0) for
// one that is not in the table.
template <class F>
void each_sentence(std::string_view report, F&& on) {
  static const auto known = [] {
    std::map<std::string_view, std::pair<size_t, uint8_t>> places;
    for (size_t a = 0; a < kAttributes; ++a)
      for (size_t v = 0; v < attribute_table()[a].values.size(); ++v)
        for (const char* sentence : attribute_table()[a].values[v].sentences)
          places[sentence] = {a, static_cast<uint8_t>(v)};
    return places;
  }();
  for (size_t dot; (dot = report.find(" .")) != std::string_view::npos;) {
    std::string_view sentence = report.substr(0, dot + 2);
    sentence.remove_prefix(std::min(sentence.find_first_not_of(' '), sentence.size()));
    report.remove_prefix(dot + 2);
    const auto found = known.find(sentence);
    if (found == known.end())
      on(kAttributes, uint8_t{0});
    else
      on(found->second.first, found->second.second);
  }
}

}  // namespace

Findings findings_in(std::string_view report) {
  Findings findings;
  std::array<bool, kAttributes + 1> said{};
  said[kAttributes] = true;
  each_sentence(report, [&](size_t a, uint8_t value) {
    if (!std::exchange(said[a], true)) findings.values[a] = value;
  });
  return findings;
}

bool says_all_findings(std::string_view report) {
  std::array<int, kAttributes + 1> times{};
  each_sentence(report, [&](size_t a, uint8_t) { ++times[a]; });
  return times == std::array<int, kAttributes + 1>{1, 1, 1, 1, 1, 1, 0};
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
