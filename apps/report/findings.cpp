// SPDX-License-Identifier: Apache-2.0
// The table, and the functions that read it.
#include "pinion/apps/report/findings.h"

#include <map>
#include <utility>

#include "pinion/kernels/check.h"
#include "pinion/kernels/philox.h"

namespace pinion::report {

namespace {

AttributeValue unsaid(const char* name, double share) { return {name, share, {"", "", "", ""}}; }

}  // namespace

const std::array<AttributeInfo, kAttributes>& attribute_table() {
  static const std::array<AttributeInfo, kAttributes> table = {{
      {"heart",
       {{"normal",
         .55,
         {"heart size is normal .", "the cardiac silhouette is within normal limits .",
          "normal heart .", "heart size and mediastinal contours are within normal limits ."}},
        {"mild",
         .25,
         {"heart is mildly enlarged .", "there is mild cardiomegaly .",
          "the cardiac silhouette is mildly prominent .",
          "the heart is slightly larger than expected ."}},
        {"marked",
         .20,
         {"heart is markedly enlarged .", "there is severe cardiomegaly .",
          "the cardiac silhouette is grossly prominent .",
          "the cardiomediastinal contour is considerably widened ."}}}},
      {"opacity",
       {{"none",
         .52,
         {"lungs are clear .", "no focal consolidation .", "the lungs are free of infiltrate .",
          "both lungs are well expanded without airspace disease ."}},
        {"right upper",
         .12,
         {"opacity in right upper lobe .", "right upper lobe consolidation is seen .",
          "there is airspace disease in the upper right lung .",
          "a patchy infiltrate projects over the right apex ."}},
        {"right lower",
         .12,
         {"opacity in right lower lobe .", "right lower lobe consolidation is seen .",
          "there is airspace disease in the lower right lung .",
          "a patchy infiltrate projects over the right base ."}},
        {"left upper",
         .12,
         {"opacity in left upper lobe .", "left upper lobe consolidation is seen .",
          "there is airspace disease in the upper left lung .",
          "a patchy infiltrate projects over the left apex ."}},
        {"left lower",
         .12,
         {"opacity in left lower lobe .", "left lower lobe consolidation is seen .",
          "there is airspace disease in the lower left lung .",
          "a patchy infiltrate projects over the left base ."}}}},
      {"effusion",
       {{"none",
         .60,
         {"no pleural effusion .", "the costophrenic angles are sharp .",
          "there is no pleural fluid .", "no layering fluid is identified in either hemithorax ."}},
        {"left",
         .15,
         {"left pleural effusion .", "the left costophrenic angle is blunted .",
          "there is pleural fluid on the left .", "fluid layers in the left hemithorax ."}},
        {"right",
         .15,
         {"right pleural effusion .", "the right costophrenic angle is blunted .",
          "there is pleural fluid on the right .", "fluid layers in the right hemithorax ."}},
        {"both",
         .10,
         {"bilateral pleural effusion .", "both costophrenic angles are blunted .",
          "there is pleural fluid on both sides .",
          "fluid layers in the left and right hemithorax ."}}}},
      {"pneumothorax",
       {{"none",
         .74,
         {"no pneumothorax .", "no evidence of pneumothorax .", "the pleural spaces hold no air .",
          "no visceral pleural line is visible ."}},
        {"left",
         .13,
         {"left sided pneumothorax .", "an apical pneumothorax is seen on the left .",
          "there is air in the left pleural space .",
          "a thin pleural line parallels the left chest wall ."}},
        {"right",
         .13,
         {"right sided pneumothorax .", "an apical pneumothorax is seen on the right .",
          "there is air in the right pleural space .",
          "a thin pleural line parallels the right chest wall ."}}}},
      {"spine",
       {{"normal",
         .70,
         {"spine is normal .", "the osseous structures are intact .",
          "no bony abnormality of the spine .",
          "vertebral body heights and disc spaces are maintained ."}},
        {"degenerative",
         .30,
         {"degenerative spine .", "degenerative changes of the thoracic spine are noted .",
          "there are osteophytes along the spine .",
          "multilevel endplate spurring is present in the thoracic spine ."}}}},
      {"device",
       {{"none",
         .70,
         {"no device .", "no support apparatus .", "there are no lines or leads .",
          "no implanted hardware projects over the chest ."}},
        {"pacemaker",
         .15,
         {"pacemaker in place .", "a pacemaker overlies the left chest .",
          "cardiac leads are present .", "a dual lead generator lies below the left clavicle ."}},
        {"central line",
         .15,
         {"central line in place .", "a central venous catheter is seen .",
          "a line ends in the superior vena cava .",
          "a catheter tip projects over the cavoatrial junction ."}}}},
      {"nodule",
       {unsaid("none", .86),
        {"nodule",
         .08,
         {"nodule in right lung .", "a pulmonary nodule is seen on the right .",
          "there is a rounded density in the right lung .",
          "a noncalcified nodule measures less than one centimeter ."}},
        {"calcified",
         .06,
         {"calcified granuloma in right lung .", "a calcified granuloma is seen on the right .",
          "there is a dense rounded calcification in the right lung .",
          "a densely calcified nodule suggests prior granulomatous disease ."}}}},
      {"edema",
       {unsaid("none", .90),
        {"edema",
         .10,
         {"pulmonary edema .", "pulmonary vascular congestion is seen .",
          "there are perihilar interstitial opacities .",
          "indistinct vessels suggest mild interstitial edema ."}}}},
      {"volumes",
       {unsaid("normal", .80),
        {"hyperinflated",
         .10,
         {"lungs are hyperinflated .", "flattened diaphragms suggest emphysema .",
          "there is hyperexpansion of both lungs .",
          "increased lung volumes are compatible with chronic obstructive disease ."}},
        {"low",
         .10,
         {"low lung volumes .", "the inspiratory effort is shallow .",
          "there is crowding of bronchovascular markings .",
          "decreased lung volumes accentuate the basilar markings ."}}}},
      {"hernia",
       {unsaid("none", .94),
        {"hiatal",
         .06,
         {"hiatal hernia .", "a retrocardiac hiatal hernia is seen .",
          "there is an air fluid level behind the heart .",
          "a moderate sized hiatal hernia contains gas ."}}}},
      {"fracture",
       {unsaid("none", .94),
        {"rib",
         .06,
         {"rib fracture on left .", "a healed left rib fracture is seen .",
          "there is an old deformity of a left rib .",
          "callus formation indicates a remote posterior rib fracture ."}}}},
      {"sternotomy",
       {unsaid("none", .92),
        {"wires",
         .08,
         {"sternotomy wires .", "median sternotomy wires are intact .",
          "there are changes of prior cardiac surgery .",
          "midline sternal cerclage wires are noted ."}}}},
      {"curvature",
       {unsaid("straight", .92),
        {"scoliosis",
         .08,
         {"scoliosis .", "a dextroscoliosis of the thoracic spine is seen .",
          "there is curvature of the spine .",
          "the thoracic spine demonstrates rightward curvature ."}}}},
  }};
  return table;
}

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

std::string report_of(const Findings& findings, const Styles& styles) {
  std::string text;
  for (size_t a = 0; a < kAttributes; ++a) {
    const char* sentence = attribute_table()[a].values[findings.values[a]].sentences[styles[a]];
    if (!text.empty() && *sentence) text += ' ';
    text += sentence;
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
          if (*sentence) places[sentence] = {a, static_cast<uint8_t>(v)};
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
  for (size_t a = 0; a < kAttributes; ++a)
    if (times[a] != 1 && (a < kAlwaysSaid || times[a] > 1)) return false;
  return times[kAttributes] == 0;
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
