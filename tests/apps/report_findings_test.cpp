// SPDX-License-Identifier: Apache-2.0
// Synthetic findings: their shares, the reports that say them and are read back, their films.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pinion/apps/report/film.h"
#include "pinion/apps/report/tokenizer.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/crc32c.h"

namespace pinion::report {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Findings, AreDrawnByTheirShares) {
  constexpr int kStudies = 4000;
  std::array<std::array<int, 5>, kAttributes> counts{};
  for (uint64_t i = 0; i < kStudies; ++i) {
    const Findings f = draw_findings(3, 0, i, kAttributes);
    for (size_t a = 0; a < kAttributes; ++a) ++counts[a][f.values[a]];
    const Findings few = draw_findings(3, 0, i);
    for (size_t a = 0; a < kAttributes; ++a)
      EXPECT_EQ(few.values[a], a < kAlwaysSaid ? f.values[a] : 0);
  }
  for (size_t a = 0; a < kAttributes; ++a)
    for (size_t v = 0; v < attribute_table()[a].values.size(); ++v)
      EXPECT_NEAR(counts[a][v] / double{kStudies}, attribute_table()[a].values[v].share, .03)
          << attribute_table()[a].values[v].name;
  EXPECT_EQ(draw_findings(3, 0, 7), draw_findings(3, 0, 7));
}

TEST(Findings, EveryReportIsReadBack) {
  Findings f;
  int combinations = 0;
  // All values of attributes [a, end).
  const auto each = [&](auto&& self, size_t a, size_t end) -> void {
    if (a == end) {
      const Styles styles = draw_styles(Wording::random, 1, 0, static_cast<uint64_t>(combinations));
      ++combinations;
      for (const std::string& report : {report_of(f), report_of(f, styles)}) {
        EXPECT_EQ(findings_in(report), f) << report;
        EXPECT_TRUE(says_all_findings(report)) << report;
      }
      return;
    }
    for (size_t v = 0; v < attribute_table()[a].values.size(); ++v) {
      f.values[a] = static_cast<uint8_t>(v);
      self(self, a + 1, end);
    }
  };
  each(each, kAlwaysSaid, kAttributes);
  EXPECT_EQ(combinations, 3 * 2 * 3 * 2 * 2 * 2 * 2);
  combinations = 0;  // all beside one each of the others
  each(each, 0, kAlwaysSaid);
  EXPECT_EQ(combinations, 3 * 5 * 4 * 3 * 2 * 3);
  EXPECT_EQ(findings_in(
                "nonsense . left pleural effusion . right pleural effusion .")[Attribute::effusion],
            kLeft);
  EXPECT_EQ(findings_in("left pleural effusion"), Findings{});  // no end of the sentence
  const std::string report = report_of(f);                      // all there is
  EXPECT_FALSE(says_all_findings(report + " nonsense ."));
  EXPECT_FALSE(says_all_findings(report + " no device ."));
  EXPECT_FALSE(says_all_findings(report + " scoliosis ."));                // a second time
  EXPECT_FALSE(says_all_findings(report.substr(report.find(" . ") + 3)));  // nothing of the heart
  // What is said only where it is found comes last, so that a text cut to 60 words says the rest.
  for (size_t style = 0; style < kStyles; ++style) {
    int64_t words = 2;  // its ends
    for (size_t a = 0; a < kAlwaysSaid; ++a) {
      int64_t most = 0;
      for (const AttributeValue& value : attribute_table()[a].values) {
        const std::string_view text = value.sentences[style];
        most = std::max<int64_t>(most, 1 + std::count(text.begin(), text.end(), ' '));
      }
      words += most;
    }
    EXPECT_LE(words, 60) << style;
  }
}

TEST(Findings, SaidTogetherAreReadBackEach) {
  for (const JointSentence& joint : joint_sentences())
    for (size_t style = 0; style < kStyles; ++style) {
      if (!*joint.sentences[style]) continue;
      Findings f;
      f.values.fill(1);
      for (const auto& [attribute, value] : joint.says) f[attribute] = value;
      Styles styles;
      styles.fill(static_cast<uint8_t>(style));
      const std::string report = report_of(f, styles);
      EXPECT_THAT(report, HasSubstr(joint.sentences[style]));
      EXPECT_EQ(findings_in(report), f) << report;
      EXPECT_TRUE(says_all_findings(report)) << report;
      EXPECT_FALSE(says_all_findings(report + " " + joint.sentences[style]));  // a second time
      const size_t last = static_cast<size_t>(joint.says.back().first);
      f.values[last] = f.values[last] == 0 ? 1 : 0;  // one of them is not so
      EXPECT_THAT(report_of(f, styles), Not(HasSubstr(joint.sentences[style])));
    }
}

// The texts of make_cxr's sets: the figures of models are of these.
TEST(Findings, OfTheDemoSetStayAsTheyAre) {
  std::string texts;
  for (const auto& [split, studies] : {std::pair{0, 640}, {1, 96}, {2, 96}})
    for (int i = 0; i < studies; ++i)
      texts += report_of(draw_findings(1, static_cast<uint32_t>(split), static_cast<uint64_t>(i)));
  EXPECT_EQ(crc32c(texts.data(), texts.size()), 0x254faef6u);
}

// As real reports have: 36 words, of 300 to 400 different ones that are frequent enough to learn.
TEST(Findings, OfTheFullSetHaveTheWordsOfRealReports) {
  std::vector<std::string> train;
  for (const auto& [split, studies] : {std::pair{0, 2069}, {1, 296}, {2, 590}})
    for (int i = 0; i < studies; ++i) {
      const auto part = static_cast<uint32_t>(split);
      const auto index = static_cast<uint64_t>(i);
      const Findings f = draw_findings(1, part, index, kAttributes);
      const std::string report = report_of(f, draw_styles(Wording::visible, 1, part, index));
      EXPECT_EQ(findings_in(report), f) << report;
      EXPECT_TRUE(says_all_findings(report)) << report;
      if (split == 0) train.push_back(report);
    }
  const Tokenizer tokenizer(train, 3);
  EXPECT_EQ(tokenizer.words().size(), 323U + 1);  // and <unk>
  double words = 0, cut = 0;
  for (const std::string& report : train) {
    const auto spaces = std::count(report.begin(), report.end(), ' ');
    words += static_cast<double>(spaces + 1);
    cut += spaces + 3 > 60;  // with its ends
  }
  EXPECT_NEAR(words / 2069, 36, 1);
  EXPECT_LT(cut / 2069, .02);
}

TEST(Findings, AreWordedInStyles) {
  std::set<Styles> visible, random;
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(draw_styles(Wording::plain, 4, 1, i), Styles{});
    visible.insert(draw_styles(Wording::visible, 4, 1, i));
    random.insert(draw_styles(Wording::random, 4, 1, i));
  }
  EXPECT_EQ(visible.size(), kStyles);  // one for all sentences
  EXPECT_GT(random.size(), 30U);
  // A mark is seen on the frontal film alone, in its corner.
  const Study none = draw_study({}, 64, 5, 1, 9);
  for (const int mark : {1, 2, 3}) {
    const Study marked = draw_study({}, 64, 5, 1, 9, mark);
    EXPECT_EQ(marked.lateral.pixels, none.lateral.pixels);
    int brighter[2] = {};
    for (size_t i = 0; i < none.frontal.pixels.size(); ++i)
      brighter[i % 64 / 32] += marked.frontal.pixels[i] > none.frontal.pixels[i] + 20;
    EXPECT_EQ(brighter[0] > 8, mark != 2);
    EXPECT_EQ(brighter[1] > 8, mark != 1);
    EXPECT_EQ(brighter[0] > 0, mark != 2);
    EXPECT_EQ(brighter[1] > 0, mark != 1);
  }
}

TEST(FindingScores, CountAWrongValueTwice) {
  Findings left, right, none;
  left[Attribute::effusion] = kLeft;
  right[Attribute::effusion] = kRight;
  const std::vector<Findings> truth = {left, left, none, none}, said = {left, right, none, left};
  const FindingScores s = score_findings(truth, said);
  EXPECT_EQ(s.micro.true_positives, 1);
  EXPECT_EQ(s.micro.false_positives, 2);
  EXPECT_EQ(s.micro.false_negatives, 1);
  EXPECT_DOUBLE_EQ(s.micro.f1(), 2.0 / 5);
  EXPECT_DOUBLE_EQ(s.exact, .5);
  EXPECT_EQ(score_findings({}, {}).micro.f1(), 0);
  EXPECT_THROW(score_findings(truth, {}), Error);
}

int differing(const Image& a, const Image& b) {
  int count = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) count += std::abs(a.pixels[i] - b.pixels[i]) > 12;
  return count;
}

TEST(Film, ChangesOnlyWhereAFindingShows) {
  Findings clear, effusion, spine;
  effusion[Attribute::effusion] = kLeft;
  spine[Attribute::spine] = kSpineDegenerative;
  const Study before = draw_study(clear, 64, 5, 1, 9);
  EXPECT_EQ(before.frontal.pixels, draw_study(clear, 64, 5, 1, 9).frontal.pixels);
  EXPECT_TRUE(before.boxes.empty());

  const Study fluid = draw_study(effusion, 64, 5, 1, 9);
  EXPECT_GT(differing(before.frontal, fluid.frontal), 50);
  EXPECT_LT(differing(before.frontal, fluid.frontal), 600);
  for (size_t y = 0; y < 64; ++y)
    for (size_t x = 0; x < 24; ++x)  // the right lung, at the left of the film
      EXPECT_EQ(before.frontal.pixels[y * 64 + x], fluid.frontal.pixels[y * 64 + x]);

  const Study bones = draw_study(spine, 64, 5, 1, 9);
  EXPECT_EQ(before.frontal.pixels, bones.frontal.pixels);  // only the lateral film shows it
  EXPECT_GT(differing(before.lateral, bones.lateral), 50);
}

TEST(Film, EveryFindingChangesAFilmInsideItsBoxes) {
  const Study clear = draw_study({}, 64, 5, 1, 9);
  for (size_t a = 0; a < kAttributes; ++a)
    for (size_t v = 1; v < attribute_table()[a].values.size(); ++v) {
      Findings f;
      f.values[a] = static_cast<uint8_t>(v);
      const Study study = draw_study(f, 64, 5, 1, 9);
      EXPECT_GT(differing(clear.frontal, study.frontal) + differing(clear.lateral, study.lateral),
                20)
          << attribute_table()[a].values[v].name;
      ASSERT_FALSE(study.boxes.empty());
      for (const FindingBox& box : study.boxes) {
        const Image& is = box.view == 0 ? study.frontal : study.lateral;
        const Image& was = box.view == 0 ? clear.frontal : clear.lateral;
        int inside = 0;
        for (int y = static_cast<int>(box.top * 64); y < box.bottom * 64 && y < 64; ++y)
          for (int x = static_cast<int>(box.left * 64); x < box.right * 64; ++x) {
            const auto i = static_cast<size_t>(y * 64 + x);
            inside += std::abs(is.pixels[i] - was.pixels[i]) > 12;
          }
        EXPECT_GT(inside, 0) << attribute_table()[a].values[v].name << " view " << box.view;
      }
    }
}

}  // namespace
}  // namespace pinion::report
