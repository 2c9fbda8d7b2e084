// SPDX-License-Identifier: Apache-2.0
// Shows where a written report looks: films with the decoder's attention to them as heat.
#pragma once

#include <string>
#include <vector>

#include "pinion/apps/report/image.h"

namespace pinion::report {

// A part of a report, and how much it attends to each place: the places of the first view row by
// row, then those of the next.
struct Attended {
  std::string text;
  std::vector<double> places;
};

// The sentences of a report, each the mean of its words; words[t] belongs to attention[t]. A
// sentence ends with ".".
std::vector<Attended> by_sentence(const std::vector<std::string>& words,
                                  const std::vector<std::vector<double>>& attention);

// The films side by side, then for each part a row of the same films under its heat: from black
// through red and yellow to white, where white is the row's most attended place. `side` is that of
// a film in the picture. Throws Error (internal) unless the places are a square for each film.
Image attention_picture(const std::vector<Image>& films, const std::vector<Attended>& parts,
                        int64_t side = 192);

}  // namespace pinion::report
