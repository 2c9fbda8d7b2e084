// SPDX-License-Identifier: Apache-2.0
// How good reports are, and how good ones would be that did not look: figures of written reports
// beside those of the same reports given to other studies, and of one report given to all.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pinion/apps/report/findings.h"
#include "pinion/apps/report/text_metrics.h"

namespace pinion::report {

// Named figures, in the order in which they are shown.
struct Figures {
  std::vector<std::pair<std::string, double>> values;
  std::optional<FindingScores> findings;     // where F1 and exact are
  double of(const std::string& name) const;  // throws Error (usage) with the names there are
  bool has(const std::string& name) const;
};

// BLEU_1 … BLEU_4, ROUGE_L, METEOR_es, METEOR_ess where WordNet is installed, CIDEr; unique
// (different reports among all); and where the true reports are sentences of the synthetic
// findings, F1 and exact.
Figures figures_of(const std::vector<Pair>& pairs);

// Whether every true report is made of the sentences of findings.h.
bool says_findings(const std::vector<Pair>& pairs);

// Figures of the reports as written, and of such that did not look.
using FigureTable = std::vector<std::pair<std::string, Figures>>;

struct Controls {
  FigureTable table;  // "as written"; "shuffled images": each report for a study half the split
                      // away (a neighbour may be its pair); "blank images"; "best constant":
                      // the training report that is best for all
  std::string constant_report;
};
// `blank_report` is what is written of films with nothing on them. `training_reports` are
// candidates for the constant one: the 60 most frequent, and 140 others.
Controls controls_of(const std::vector<Pair>& pairs, const std::string& blank_report,
                     const std::vector<std::string>& training_reports);

// Each finding that is there or said: precision, recall and F1 as written, and F1 of the other rows
// of the table, below a header. Nothing where the reports are not of the synthetic findings.
std::vector<std::vector<std::string>> by_finding(const FigureTable& table);

// For a terminal: "  BLEU_1 0.995  BLEU_2 …", and such a line for each row, with its name.
std::string line_of(const Figures& figures);
std::string text_of(const FigureTable& table);
std::string note_on_meteor();  // which of its stages there are
// "0.995", or a whole number for what is counted.
std::string shown(const std::string& name, double value);

}  // namespace pinion::report
