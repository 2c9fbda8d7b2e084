// SPDX-License-Identifier: Apache-2.0
// Writing reports: beam search, the likeliest word, or words drawn by chance, word by word with
// what the decoder keeps of the words before. All reports of a batch are written together.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pinion/apps/report/encoder_decoder.h"

namespace pinion::report {

struct DecodingOptions {
  // "beam_search", "greedy", "sample" (by probability), "gumbel" (the same, with noise on scores:
  // temperature does nothing), "top5" (of the 5 likeliest, any number), "top0.9" (of the likeliest
  // that make up 0.9 together).
  std::string method = "beam_search";
  int64_t beam_size = 3;
  int64_t max_length = 60;  // words, the end included
  double temperature = 1;
  bool decoding_constraint = false;  // no word twice in a row
  // A word that would repeat three words costs 2 log 2 for each time it did; not in beam search, as
  // in the published code.
  bool block_trigrams = true;
  uint64_t seed = 0;  // of words drawn by chance

  int64_t sample_n = 1;  // reports of each study, the best first: of a beam, or drawn anew
  // The beam is cut into so many groups, or so many reports are written side by side; a word costs
  // diversity_lambda for each time that an earlier group has just written it at the same place.
  int64_t group_size = 1;
  double diversity_lambda = 0.5;
  // Of a beam's finished texts, L words long, the best has the highest sum of log-probabilities;
  // with "wu_A" the highest sum / ((5 + L) / 6)^A, with "avg" sum / L.
  std::string length_penalty;
  int64_t forbidden = 0;  // the number of a word that is never written; 0: none
  bool cached = true;     // false: read every text anew for each word, to compare with
};

// Calls f with the name of each option that a flag of that name sets, and with its value in each of
// the `options`. What is not here comes from elsewhere: max_length and forbidden.
template <class F, class... Options>
void each_flag(F&& f, Options&... options) {
  f("sample_method", options.method...), f("beam_size", options.beam_size...);
  f("temperature", options.temperature...), f("seed", options.seed...);
  f("decoding_constraint", options.decoding_constraint...);
  f("block_trigrams", options.block_trigrams...), f("sample_n", options.sample_n...);
  f("group_size", options.group_size...), f("diversity_lambda", options.diversity_lambda...);
  f("length_penalty", options.length_penalty...);
}

struct WrittenReport {
  std::vector<int64_t> ids;           // without the end
  std::vector<double> probabilities;  // of each, and of the end if it is there
                                      // the model's own, whatever the options do to them
  double log_probability = 0;         // the sum of their logarithms
};

// Throws Error (usage) for options that make no sense, as what follows does.
void check(const DecodingOptions& options);

// features [B,P,d_vf], as the extractor gives them -> the reports of each study, sample_n or, not
// in beam search, group_size of them if that is more. The model must be in evaluation mode. Chance
// depends on the seed, the place of a word and the study's number in `studies` (0, 1, … unless
// given), not on the batch. Throws Error (non_finite) when the model gives probabilities that are
// none.
std::vector<std::vector<WrittenReport>> write_several(EncoderDecoder& model, const Tensor& features,
                                                      const DecodingOptions& options = {},
                                                      std::span<const int64_t> studies = {});
// The first of each.
std::vector<WrittenReport> write_reports(EncoderDecoder& model, const Tensor& features,
                                         const DecodingOptions& options = {},
                                         std::span<const int64_t> studies = {});

}  // namespace pinion::report
