// SPDX-License-Identifier: Apache-2.0
// Writing reports: beam search, the likeliest word, or words drawn by chance, word by word with
// what the decoder keeps of the words before. All reports of a batch are written together.
#pragma once

#include <string>
#include <vector>

#include "pinion/apps/report/encoder_decoder.h"

namespace pinion::report {

struct DecodingOptions {
  // "beam_search", "greedy", "sample" (by probability), "top5" (of the 5 likeliest, any number),
  // "top0.9" (of the likeliest that make up 0.9 together).
  std::string method = "beam_search";
  int64_t beam_size = 3;
  int64_t max_length = 60;  // words, the end included
  double temperature = 1;
  bool decoding_constraint = false;  // no word twice in a row
  // A word that would repeat three words costs 2 log 2 for each time it did; not in beam search, as
  // in the published code.
  bool block_trigrams = true;
  uint64_t seed = 0;  // of words drawn by chance
};

struct WrittenReport {
  std::vector<int64_t> ids;           // without the end
  std::vector<double> probabilities;  // of each, and of the end if it is there
                                      // the model's own, whatever the options forbid
  double log_probability = 0;         // the sum of their logarithms
};

// features [B,P,d_vf], as the extractor gives them -> B reports. The model must be in evaluation
// mode. Throws Error (usage) for options that make no sense, and Error (non_finite) when the model
// gives probabilities that are none.
std::vector<WrittenReport> write_reports(EncoderDecoder& model, const Tensor& features,
                                         const DecodingOptions& options = {});

}  // namespace pinion::report
