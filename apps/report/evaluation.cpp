// SPDX-License-Identifier: Apache-2.0
// Figures from pairs of texts.
#include "pinion/apps/report/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "pinion/apps/report/meteor.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

bool Figures::has(const std::string& name) const {
  return std::any_of(values.begin(), values.end(), [&](const auto& v) { return v.first == name; });
}

double Figures::of(const std::string& name) const {
  std::string names;
  for (const auto& [key, value] : values) {
    if (key == name) return value;
    names += (names.empty() ? "" : ", ") + key;
  }
  fail(ErrorKind::usage, {"--monitor_metric: expected one of ", names, ", got ", quoted(name, 64)});
}

bool says_findings(const std::vector<Pair>& pairs) {
  return !pairs.empty() && std::all_of(pairs.begin(), pairs.end(), [](const Pair& pair) {
    const std::string& truth = pair.references.front();
    return says_all_findings(truth);
  });
}

Figures figures_of(const std::vector<Pair>& pairs) {
  Figures out;
  const BleuScore b = bleu(pairs);
  for (size_t n = 0; n < 4; ++n)
    out.values.emplace_back("BLEU_" + std::to_string(n + 1), b.corpus[n]);
  out.values.emplace_back("ROUGE_L", rouge_l(pairs).corpus);
  out.values.emplace_back("METEOR_es", meteor_es(pairs).corpus);
  if (const WordNet* wordnet = WordNet::installed())
    out.values.emplace_back("METEOR_ess", meteor_ess(pairs, *wordnet).corpus);
  out.values.emplace_back("CIDEr", cider_d(pairs).corpus);
  std::set<std::string_view> unique;
  for (const Pair& pair : pairs) unique.insert(pair.hypothesis);
  out.values.emplace_back("unique", static_cast<double>(unique.size()));
  if (!says_findings(pairs)) return out;
  std::vector<Findings> truth, said;
  for (const Pair& pair : pairs) {
    truth.push_back(findings_in(pair.references.front()));
    said.push_back(findings_in(pair.hypothesis));
  }
  out.findings = score_findings(truth, said);
  out.values.emplace_back("F1", out.findings->micro.f1());
  out.values.emplace_back("exact", out.findings->exact);
  return out;
}

namespace {

std::vector<std::string> candidates(const std::vector<std::string>& reports) {
  constexpr size_t kFrequent = 60, kOthers = 140;
  std::map<std::string, int64_t> counts;
  for (const std::string& report : reports) ++counts[report];
  std::vector<std::pair<int64_t, std::string>> order;
  for (const auto& [report, count] : counts) order.emplace_back(-count, report);
  std::sort(order.begin(), order.end());
  std::vector<std::string> out;
  for (size_t i = 0; i < std::min(kFrequent, order.size()); ++i) out.push_back(order[i].second);
  const size_t left = order.size() - out.size(), others = std::min(kOthers, left);
  for (size_t i = 0; i < others; ++i)  // evenly from the rest
    out.push_back(order[out.size() - i + i * left / others].second);
  return out;
}

std::vector<Pair> with_hypothesis(std::vector<Pair> pairs, const std::string& report) {
  for (Pair& pair : pairs) pair.hypothesis = report;
  return pairs;
}

}  // namespace

Controls controls_of(const std::vector<Pair>& pairs, const std::string& blank_report,
                     const std::vector<std::string>& training_reports) {
  Controls out;
  std::vector<Pair> shuffled = pairs;
  for (size_t i = 0; i < pairs.size(); ++i)
    shuffled[i].hypothesis = pairs[(i + pairs.size() / 2) % pairs.size()].hypothesis;
  const std::vector<std::string> constants = candidates(training_reports);
  const std::vector<double> scores = bleu_4_of_constants(constants, pairs);
  if (!constants.empty())
    out.constant_report = constants[static_cast<size_t>(
        std::max_element(scores.begin(), scores.end()) - scores.begin())];
  out.table = {{"as written", figures_of(pairs)},
               {"shuffled images", figures_of(shuffled)},
               {"blank images", figures_of(with_hypothesis(pairs, blank_report))},
               {"best constant", figures_of(with_hypothesis(pairs, out.constant_report))}};
  return out;
}

std::vector<std::vector<std::string>> by_finding(const FigureTable& table) {
  const std::optional<FindingScores>& written = table.front().second.findings;
  if (!written) return {};
  std::vector<std::vector<std::string>> rows = {{"finding", "precision", "recall", "F1"}};
  for (size_t i = 1; i < table.size(); ++i) rows[0].push_back("F1, " + table[i].first);
  for (size_t a = 0; a < kAttributes; ++a) {
    const FindingScores::Counts& own = written->by_attribute[a];
    if (own.true_positives + own.false_positives + own.false_negatives == 0) continue;
    auto& row = rows.emplace_back();
    row.emplace_back(attribute_table()[a].name);
    for (const double value : {own.precision(), own.recall(), own.f1()})
      row.push_back(fmt::format("{:.3f}", value));
    for (size_t i = 1; i < table.size(); ++i)
      row.push_back(fmt::format("{:.3f}", table[i].second.findings->by_attribute[a].f1()));
  }
  return rows;
}

std::string shown(const std::string& name, double value) {
  return name == "unique" ? fmt::format("{:.0f}", value) : fmt::format("{:.3f}", value);
}

std::string note_on_meteor() {
  return WordNet::installed()
             ? "  METEOR_es: stages exact and stem; METEOR_ess: and synonyms of WordNet"
             : "  METEOR_es: stages exact and stem (WordNet is not installed)";
}

std::string line_of(const Figures& figures) {
  std::string line;
  for (const auto& [name, value] : figures.values)
    line += fmt::format("  {} {}", name, shown(name, value));
  return line;
}

std::string text_of(const FigureTable& table) {
  std::string text;
  for (const auto& [name, figures] : table)
    text += fmt::format("  {:<16}{}\n", name, line_of(figures));
  text += note_on_meteor() + "\n";
  for (const std::vector<std::string>& row : by_finding(table)) {
    text += fmt::format("  {:<16}", row[0]);
    for (size_t i = 1; i < row.size(); ++i) text += fmt::format("{:>{}}", row[i], i < 4 ? 11 : 21);
    text += "\n";
  }
  return text;
}

}  // namespace pinion::report
