// SPDX-License-Identifier: Apache-2.0
// What shows that a model looked at the films: reports of paired studies, and peaks of attention.
#include <gmock/gmock.h>

#include "pinion/apps/report/looking.h"
#include "pinion/kernels/check.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::report {
namespace {

Findings with(Attribute a, uint8_t value) {
  Findings f;
  f[a] = value;
  return f;
}

TEST(Flips, AreWhatIsSaidRightlyOfBothStudies) {
  const Findings none, left = with(Attribute::effusion, kLeft),
                       right = with(Attribute::effusion, kRight);
  const std::string is_none = report_of(none), is_left = report_of(left),
                    is_right = report_of(right);
  const std::vector<std::string> ids = {"a", "a-pair", "b", "b-pair", "alone", "c-pair"};
  std::vector<Pair> pairs = {{is_none, {is_none}}, {is_left, {is_left}},   // flips
                             {is_none, {is_none}}, {is_none, {is_left}},   // does not
                             {is_left, {is_none}}, {is_left, {is_none}}};  // no pair
  Flips flips = flips_of(ids, pairs);
  EXPECT_EQ(flips.findings, 2);
  EXPECT_EQ(flips.flipped, 1);
  EXPECT_EQ(flips.others, 10);
  EXPECT_EQ(flips.kept, 10);
  pairs[1].hypothesis =
      is_right + " degenerative spine .";  // the wrong side; the spine is said twice
  pairs[3].hypothesis = report_of(with(Attribute::heart, kHeartMild));
  flips = flips_of(ids, pairs);
  EXPECT_EQ(flips.flipped, 0);
  EXPECT_EQ(flips.kept, 9);
}

TEST(Pointing, CountsPeaksInABoxOfTheFinding) {
  // Two views of 2 x 2 places; the box covers the upper right place of the second.
  const std::vector<FindingBox> boxes = {{Attribute::effusion, 1, .6, .1, .9, .4}};
  const std::string truth = report_of(with(Attribute::effusion, kLeft));
  const std::vector<std::string> words = {"lungs", "are",     "clear",    ".",
                                          "left",  "pleural", "effusion", "."};
  std::vector<std::vector<double>> attention(words.size(),
                                             std::vector<double>{1, 0, 0, 0, 0, 0, 0, 0});
  attention[4] = {0, 0, 0, 0, 0, .9, .1, 0};  // only "left" decides
  Pointing pointing;
  pointing.add(boxes, truth, words, attention, 2);
  EXPECT_EQ(pointing.findings, 1);
  EXPECT_EQ(pointing.hits, 1);
  EXPECT_DOUBLE_EQ(pointing.chance, 1.0 / 8);
  std::swap(attention[4][5], attention[4][1]);  // the same place of the other view
  pointing.add(boxes, truth, words, attention, 2);
  EXPECT_EQ(pointing.findings, 2);
  EXPECT_EQ(pointing.hits, 1);
  // What is not true, or has no box, is not asked for.
  pointing.add(boxes, report_of({}), words, attention, 2);
  pointing.add({}, truth, words, attention, 2);
  pointing.add(boxes, truth, {}, {}, 2);
  EXPECT_EQ(pointing.findings, 2);
  EXPECT_THROW(pointing.add(boxes, truth, words, attention, 3), Error);
}

TEST(Boxes, AreReadAsTheyAreWritten) {
  const TempDir dir;
  EXPECT_TRUE(load_boxes(dir / "findings.json").empty());
  write_file_atomic(dir / "findings.json",
                    R"({"a": {"labels": {}, "boxes": [{"finding": "spine", "view": 1,
                        "box": [0.1, 0.2, 0.3, 0.4]}, {"finding": "else", "view": 0,
                        "box": [0, 0, 1, 1]}]}, "b": {"labels": {}, "boxes": []}})");
  const Boxes boxes = load_boxes(dir / "findings.json");
  ASSERT_EQ(boxes.at("a").size(), 1U);
  EXPECT_EQ(boxes.at("a")[0].attribute, Attribute::spine);
  EXPECT_EQ(boxes.at("a")[0].bottom, 0.4);
  for (const char* bad : {"{", "[1]", R"({"a": {}})", R"({"a": {"boxes": [{"finding": 1}]}})",
                          R"({"a": {"boxes": [{"finding": "spine", "view": 0, "box": [1]}]}})"}) {
    write_file_atomic(dir / "findings.json", bad);
    EXPECT_THROW(load_boxes(dir / "findings.json"), Error) << bad;
  }
}

}  // namespace
}  // namespace pinion::report
