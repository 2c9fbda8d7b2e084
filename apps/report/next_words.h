// SPDX-License-Identifier: Apache-2.0
// How likely each word is to come next in texts that are being written, row by row.
#pragma once

#include <span>
#include <vector>

#include "pinion/apps/report/encoder_decoder.h"

namespace pinion::report {

inline constexpr int64_t kEndOfReport = 0;  // also what a report begins with

// What becomes of a text's words as it is written: their probabilities.
class NextWords {
 public:
  // `copies` rows for each report of encoded [B,P,C], next to each other. Without a cache every
  // text is read from its beginning for each word, as the published code does.
  NextWords(EncoderDecoder& model, const Tensor& encoded, int64_t copies, bool cached = true);

  // Takes in the word just written in each row, at first kEndOfReport.
  void read(const std::vector<int64_t>& words);
  // Then: log-probabilities of the next word of a row.
  std::span<const double> of(size_t row) const {
    return std::span(logp_).subspan(row * vocabulary_, vocabulary_);
  }
  // Afterwards row r goes on from what was row rows[r], of the same report.
  void reorder(const std::vector<int64_t>& rows);
  size_t rows() const { return rows_; }

 private:
  EncoderDecoder* model_;
  size_t rows_, vocabulary_ = 0;
  std::vector<double> logp_;
  EncoderDecoder::State state_;
  // Without a cache: what each row sees, and its words.
  Tensor encoded_;
  std::vector<std::vector<int64_t>> texts_;
};

// Log-probabilities from scores of any size, in place. Throws Error (non_finite).
void normalise(std::span<double> scores);

}  // namespace pinion::report
