// SPDX-License-Identifier: Apache-2.0
// Beam search, in groups that avoid each other's words where that is wanted (Vijayakumar et al.
// 2016, "Diverse Beam Search").
#pragma once

#include "pinion/apps/report/decoding.h"
#include "pinion/apps/report/next_words.h"

namespace pinion::report {

// Throws Error (usage) for options that make no sense.
void check_beam(const DecodingOptions& options);

// What write_several gives for "beam_search": for each report of encoded [B,P,C] the best texts of
// the first group, then those of the next. Throws Error (usage) for options that make no sense.
std::vector<std::vector<WrittenReport>> beam_search(EncoderDecoder& model, const Tensor& encoded,
                                                    const DecodingOptions& options);

}  // namespace pinion::report
