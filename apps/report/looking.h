// SPDX-License-Identifier: Apache-2.0
// Whether a model looks at the films: what it says of two that differ in one finding, and where it
// looks when it says one.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "pinion/apps/report/film.h"
#include "pinion/apps/report/text_metrics.h"

namespace pinion::report {

// Studies "X" and "X-pair" are the same but for findings that are there in one only.
struct Flips {
  int64_t findings = 0, flipped = 0;  // that differ; of them, those said rightly of both studies
  int64_t others = 0, kept = 0;       // that do not; of them, those said alike of both
};
// pairs[i] is the written and the true report of the study ids[i].
Flips flips_of(const std::vector<std::string>& ids, const std::vector<Pair>& pairs);

// Where the findings of each study show.
using Boxes = std::map<std::string, std::vector<FindingBox>>;
// Reads findings.json as make_cxr writes it; nothing when there is none. Throws Error (data) for a
// file that is something else.
Boxes load_boxes(const std::string& path);

// The pointing game, over findings that a report says rightly: does the place that is attended to
// most, while the words are written that no normal report has, lie in a box of the finding?
struct Pointing {
  int64_t findings = 0, hits = 0;
  double chance = 0;  // the sum over findings of the share of places that would be hits

  // words[t] was written attending to attention[t], a square of places for each view.
  void add(std::span<const FindingBox> boxes, const std::string& truth,
           const std::vector<std::string>& words, const std::vector<std::vector<double>>& attention,
           int64_t views);
};

}  // namespace pinion::report
