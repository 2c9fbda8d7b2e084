// SPDX-License-Identifier: Apache-2.0
// METEOR 1.5 without its table of paraphrases: how well the words of a generated report can be laid
// over those of the true one, by the same word, by the same stem, and by a common meaning.
//
// Sources: Denkowski and Lavie, "Meteor Universal", 2014 (score, constants for English); Porter's
// second English stemmer (libstemmer); WordNet 3.0 where it is installed. Two things differ from
// the published program, so the figures are called METEOR_es (exact, stem) and METEOR_ess (and
// synonyms) and must not be given out as METEOR: there is no stage of paraphrases, and the list of
// function words is our own: marks and frequent words of English. It agrees with what the program
// gives on the examples in the tests, which need "a", "are", "or" and "was" in it.
#pragma once

#include "pinion/apps/report/text_metrics.h"
#include "pinion/apps/report/wordnet.h"

namespace pinion::report {

enum class MeteorStages : uint8_t { exact, exact_stem };

// With c content and f function words, weights w of 1 (same word), .6 (same stem) and .8
// (a synset of both):
//   P = sum of w (.75 c + .25 f) over the matched words / the same with w = 1 over all words of the
//   hypothesis, R likewise of the reference; F = P R / (.85 P + .15 R);
//   score = F (1 - .6 g^.2), g = chunks / matched words,
// a chunk being matched words that are neighbours in both texts; g = 0 where all match in one
// chunk. Of several references the best counts. `corpus` is the formula on counts summed over
// segments. May be called from several threads at once.
Score meteor_es(const std::vector<Pair>& pairs, MeteorStages stages = MeteorStages::exact_stem);
Score meteor_ess(const std::vector<Pair>& pairs, const WordNet& wordnet);

}  // namespace pinion::report
