// SPDX-License-Identifier: Apache-2.0
// Cleaning, vocabulary and text metrics of the report generator, against the figures of the public
// evaluation code on four short reports.
#include <gmock/gmock.h>

#include <cmath>
#include <thread>

#include "pinion/apps/report/clean_text.h"
#include "pinion/apps/report/meteor.h"
#include "pinion/apps/report/text_metrics.h"
#include "pinion/apps/report/tokenizer.h"
#include "pinion/kernels/check.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::report {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::Pointwise;

TEST(CleanReport, FollowsTheRulesOfIuXray) {
  const auto clean = [](const char* text) { return clean_report(text, DatasetName::iu_xray); };
  EXPECT_EQ(clean("The heart is normal in size. The lungs are clear."),
            "the heart is normal in size . the lungs are clear .");
  EXPECT_EQ(clean("1. No acute disease. 2. Stable nodule... 3. XXXX"),
            "no acute disease . stable nodule . xxxx .");
  // The class drops ':' to '[', but not the hyphen; quotes and slashes go before the strip.
  EXPECT_EQ(clean("T-spine: 4/5 <mild> \"change\" [see #2] = ok_?"),
            "t-spine 45 mild change see #2  ok .");
  EXPECT_EQ(clean("A. . B"), "a .  . b .");  // an empty sentence stays
  EXPECT_EQ(clean(""), " .");
}

TEST(CleanReport, JoinsTheLinesOfMimic) {
  EXPECT_EQ(clean_report("FINDINGS:\n ___ is   clear.\n No pneumothorax.", DatasetName::mimic_cxr),
            "findings  is clear . no pneumothorax .");
}

TEST(Tokenizer, NumbersFrequentWordsInTheOrderOfTheirBytes) {
  const std::vector<std::string> reports = {"b a . b", "a . 10 b", "c ."};
  const Tokenizer tokenizer(reports, 2);
  EXPECT_THAT(tokenizer.words(), ElementsAre(".", "<unk>", "a", "b"));
  EXPECT_EQ(tokenizer.vocabulary(), 5);
  EXPECT_THAT(tokenizer.encode("a c .", 60), ElementsAre(0, 3, 2, 1, 0));
  EXPECT_THAT(tokenizer.encode("a c .", 3), ElementsAre(0, 3, 2));
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{3, 2, 1, 0, 3}), "a <unk> .");
  EXPECT_EQ(Tokenizer(tokenizer.words()).id_of("b"), 4);
}

TEST(Tokenizer, RefusesBadVocabulariesAndNumbers) {
  EXPECT_THROW(Tokenizer(std::vector<std::string>{"b", "a"}), Error);
  EXPECT_THROW(Tokenizer(std::vector<std::string>{"a"}), Error);
  const Tokenizer tokenizer(std::vector<std::string>{"<unk>", "a"});
  EXPECT_THROW(tokenizer.word_of(3), Error);
  EXPECT_THROW(tokenizer.decode(std::vector<int64_t>{-1}), Error);
}

const std::vector<Pair>& four_reports() {
  static const std::vector<Pair> pairs = {
      {"heart size is normal . the lungs are clear .",
       {"the heart is normal in size . the lungs are clear ."}},
      {"there is a small right pleural effusion . no pneumothorax is seen .",
       {"there is a small left pleural effusion . no pneumothorax ."}},
      {"no pleural effusion or pneumothorax .",
       {"no focal consolidation pneumothorax or pleural effusion ."}},
      {"the heart is enlarged . there are degenerative changes of the thoracic spine .",
       {"heart size is enlarged . degenerative changes in the spine ."}},
  };
  return pairs;
}

TEST(TextMetrics, MatchThePublicEvaluation) {
  const BleuScore b = bleu(four_reports());
  EXPECT_THAT(b.corpus,
              Pointwise(DoubleNear(5e-11), {.8139534884, .6129199301, .4752401754, .3796489908}));
  std::vector<double> bleu4;
  for (const auto& segment : b.segments) bleu4.push_back(segment[3]);
  EXPECT_THAT(bleu4, Pointwise(DoubleNear(5e-9), {.50334597, .49735674, .00000001, .00003499}));

  const Score rouge = rouge_l(four_reports());
  EXPECT_NEAR(rouge.corpus, .7360087631, 5e-11);
  EXPECT_THAT(rouge.segments,
              Pointwise(DoubleNear(5e-9), {.80498534, .84604716, .55707763, .73592493}));

  const Score cider = cider_d(four_reports());
  EXPECT_NEAR(cider.corpus, 3.7156435199, 5e-11);
  EXPECT_THAT(cider.segments,
              Pointwise(DoubleNear(5e-9), {5.64087153, 4.97676838, 1.79452189, 2.45041229}));
}

TEST(TextMetrics, MatchMeteorWithoutItsTables) {
  for (const MeteorStages stages : {MeteorStages::exact, MeteorStages::exact_stem}) {
    const Score meteor = meteor_es(four_reports(), stages);
    EXPECT_NEAR(meteor.corpus, .3955581268, 5e-11);
    EXPECT_THAT(meteor.segments,
                Pointwise(DoubleNear(5e-9), {.46126090, .44033179, .29577859, .37801191}));
  }
  const auto of = [](const char* hypothesis, std::vector<std::string> references) {
    return meteor_es({{hypothesis, std::move(references)}}).corpus;
  };
  EXPECT_NEAR(of("the cat was sat on the mat", {"the cat sat on the mat"}), .5119556, 5e-8);
  EXPECT_NEAR(of("heart size is normal .", {"the heart is normal in size ."}), .3691396457784059,
              1e-15);
  EXPECT_EQ(of("The T-spine, 4.5 mm.", {"x", "the t spine , 4.5 mm ."}), 1);  // the best of two
  EXPECT_EQ(of("", {"a b"}), 0);
  EXPECT_THROW(meteor_es({{"a", {}}}), Error);
}

TEST(TextMetrics, MeteorTakesStemsForPartOfAMatch) {
  const std::vector<Pair> pairs = {{"lung clear", {"lungs clear"}},
                                   {"lungs are clear", {"lungs are clear"}}};
  const Score exact = meteor_es(pairs, MeteorStages::exact);
  EXPECT_NEAR(exact.segments[0], .5 * (1 - .6), 1e-15);
  EXPECT_EQ(exact.segments[1], 1);
  // Four words match; the chunk of the segment that is right does not count.
  EXPECT_NEAR(exact.corpus, 2.5 / 3.25 * (1 - .6 * std::pow(.25, .2)), 1e-15);
  EXPECT_NEAR(meteor_es(pairs).segments[0], (.6 + 1) / 2, 1e-15);
  // The same word goes before the same stem.
  EXPECT_NEAR(meteor_es({{"lung", {"lung lungs"}}}).corpus, .4 / 1.85, 1e-15);
}

// A WordNet of a few words, in the format of its files.
std::string small_wordnet(const TempDir& dir) {
  for (const char* part : {"noun", "verb", "adj", "adv"})
    for (const std::string& file : {std::string("index.") + part, part + std::string(".exc")})
      write_file_atomic(dir / file, "  1 a licence line\n");
  write_file_atomic(dir / "index.noun",
                    "  1 a licence line\n"
                    "fluid n 1 2 @ ~ 1 1 00000100  \n"
                    "effusion n 2 1 @ 2 0 00000300 00000100  \n"
                    "foot n 1 0 1 0 00000700  \n"
                    "base n 1 0 1 0 00000700  \n");
  write_file_atomic(dir / "index.verb", "clear v 1 0 1 0 00000100  \n");
  write_file_atomic(dir / "noun.exc", "feet foot\n");
  return dir / "";
}

TEST(WordNet, KnowsSynsetsOfBaseForms) {
  const TempDir dir;
  const WordNet wordnet(small_wordnet(dir));
  EXPECT_THAT(wordnet.synsets("effusion"), ElementsAre(400, 1200));
  EXPECT_EQ(wordnet.synsets("effusions"), wordnet.synsets("effusion"));
  EXPECT_EQ(wordnet.synsets("feet"), wordnet.synsets("base"));
  EXPECT_THAT(wordnet.synsets("cleared"), ElementsAre(401));  // a verb's 100 is another synset
  EXPECT_TRUE(wordnet.synsets("lung").empty());
  for (const char* bad : {"fluid n x\n", "fluid n 5 0 1 0 100\n", "fluid\n", "f n 1 0 1 0 1x\n"}) {
    write_file_atomic(dir / "index.adj", bad);
    EXPECT_THROW(WordNet(dir / ""), Error) << bad;
  }
  remove_file(dir / "index.adj");
  EXPECT_THROW(WordNet(dir / ""), Error);
}

TEST(TextMetrics, MeteorTakesSynonymsForMoreThanStems) {
  const TempDir dir;
  const WordNet wordnet(small_wordnet(dir));
  const std::vector<Pair> pairs = {{"pleural fluids", {"pleural effusion"}}};
  EXPECT_NEAR(meteor_ess(pairs, wordnet).corpus, (1 + .8) / 2, 1e-15);
  EXPECT_NEAR(meteor_es(pairs).corpus, .5 * (1 - .6), 1e-15);
  EXPECT_NEAR(meteor_ess(four_reports(), wordnet).corpus, .3955581268, 5e-11);
}

// What the published program gives without its paraphrases; needs WordNet itself.
TEST(TextMetrics, MatchMeteorWithWordNet) {
  if (!WordNet::installed()) GTEST_SKIP() << "wordnet-base is not installed";
  const WordNet& wordnet = *WordNet::installed();
  const std::vector<Pair> pair = {
      {"Alimentum is located in the city centre. It is not family-friendly.",
       {"There is a place in the city centre, Alimentum, that is not family-friendly."}}};
  EXPECT_NEAR(meteor_ess(pair, wordnet).corpus, .4249, 5e-5);
  EXPECT_NEAR(meteor_es(pair).corpus, .3751, 5e-5);
  EXPECT_NEAR(meteor_ess(four_reports(), wordnet).corpus, .3955581268, 5e-11);
}

TEST(TextMetrics, MeteorIsTheSameOnEveryThread) {
  const std::vector<Pair> pairs(50, {"lung clear hearts", {"lungs cleared heart"}});
  const double expected = meteor_es(pairs).corpus;
  std::vector<double> scores(4);
  {
    std::vector<std::jthread> threads;
    for (double& score : scores) threads.emplace_back([&] { score = meteor_es(pairs).corpus; });
  }
  EXPECT_THAT(scores, testing::Each(expected));
}

TEST(TextMetrics, TakeTheNearestReferenceAndTheBestOverlap) {
  const std::vector<Pair> pairs = {{"a b c d", {"a b c d e", "a b c"}}};
  EXPECT_NEAR(bleu(pairs).corpus[0], 0.99999999975, 1e-10);  // the shorter of two equally near
  EXPECT_EQ(rouge_l(pairs).corpus, 1);
}

TEST(TextMetrics, ScoreEachConstantAsBleuScoresItsPairs) {
  const std::vector<std::string> candidates = {"a b c d e", "a b c a b c d", "", "x y"};
  std::vector<Pair> pairs = {{"", {"a b c d f", "b c d e"}}, {"", {"a b c d e f g"}}, {"", {"a"}}};
  const std::vector<double> scores = bleu_4_of_constants(candidates, pairs);
  ASSERT_EQ(scores.size(), candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    for (Pair& pair : pairs) pair.hypothesis = candidates[i];
    EXPECT_EQ(scores[i], bleu(pairs).corpus[3]) << candidates[i];
  }
  EXPECT_GT(scores[0], scores[1]);
}

TEST(TextMetrics, GiveNothingForAnEmptyText) {
  const std::vector<Pair> pairs = {{"", {"a b c d"}}};
  for (const double score : bleu(pairs).corpus) EXPECT_NEAR(score, 0, 1e-12);
  EXPECT_EQ(rouge_l(pairs).corpus, 0);
  EXPECT_THROW(bleu({{"a", {}}}), Error);
}

}  // namespace
}  // namespace pinion::report
