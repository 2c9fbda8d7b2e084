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
  double of(const std::string& name) const;  // throws Error (usage) with the names there are
  bool has(const std::string& name) const;
};

// BLEU_1 … BLEU_4, ROUGE_L, METEOR_es, CIDEr; unique (different reports among all); and where the
// true reports are sentences of the synthetic findings, F1 and exact.
Figures figures_of(const std::vector<Pair>& pairs);

// Whether every true report is made of the sentences of findings.h.
bool says_findings(const std::vector<Pair>& pairs);

struct Controls {
  Figures shuffled;  // each report for the next study's
  Figures constant;  // the training report that is best for all
  std::string constant_report;
};
// `training_reports` are candidates for the constant one: the 60 most frequent, and 140 others.
Controls controls_of(const std::vector<Pair>& pairs,
                     const std::vector<std::string>& training_reports);

// For a terminal: "  BLEU_1 0.995  BLEU_2 …", and such a line for each of the four, with what it
// is.
std::string line_of(const Figures& figures);
std::string text_of(const Figures& written, const Figures& blank, const Controls& controls);

}  // namespace pinion::report
