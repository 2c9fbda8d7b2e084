// SPDX-License-Identifier: Apache-2.0
// Where a written report looks: the decoder's attention, and films with it as heat.
#pragma once

#include <string>
#include <vector>

#include "pinion/apps/report/encoder_decoder.h"
#include "pinion/apps/report/image.h"

namespace pinion::report {

// What the decoder's last layer attends to when it writes each of the words (numbers without the
// end): out[t] are the places of features [1,P,d_vf].
std::vector<std::vector<double>> attention_of(EncoderDecoder& model, const Tensor& features,
                                              const std::vector<int64_t>& written);

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
// The row of one part alone.
Image attention_row(const std::vector<Image>& films, const Attended& part, int64_t side);

}  // namespace pinion::report
