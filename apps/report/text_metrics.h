// SPDX-License-Identifier: Apache-2.0
// How near generated reports are to the true ones: BLEU, ROUGE-L and CIDEr-D as the caption
// evaluation of COCO computes them, on words between white space.
//
// Sources: Papineni et al. 2002 (BLEU), Lin 2004 (ROUGE), Vedantam et al. 2015 (CIDEr). The small
// constants of BLEU and the lengths of CIDEr are those of the public evaluation code, so that
// published figures compare.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace pinion::report {

// One generated text and the true ones, at least one.
struct Pair {
  std::string hypothesis;
  std::vector<std::string> references;
};

struct BleuScore {
  std::array<double, 4> corpus{};  // BLEU-1 … BLEU-4
  std::vector<std::array<double, 4>> segments;
};
struct Score {
  double corpus = 0;
  std::vector<double> segments;
};

// B_n = (prod over k <= n of matched k-grams / k-grams)^(1/n), times exp(1 - r/h) when the
// hypotheses, h words in all, are shorter than the references nearest in length, r words.
BleuScore bleu(const std::vector<Pair>& pairs);
// BLEU-4 of each candidate, were it the hypothesis of every pair.
std::vector<double> bleu_4_of_constants(const std::vector<std::string>& candidates,
                                        const std::vector<Pair>& pairs);

// F = (1 + b²) P R / (R + b² P) of the longest common subsequence, b = 1.2, P and R being the best
// over the references; the mean over segments.
Score rouge_l(const std::vector<Pair>& pairs);

// 10 times the mean over n = 1 … 4 of the clipped cosine between tf-idf vectors of n-grams, times
// exp(-d² / 72) for a difference d in length (counted in bigrams). idf is over these references.
Score cider_d(const std::vector<Pair>& pairs);

}  // namespace pinion::report
