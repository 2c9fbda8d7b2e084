// SPDX-License-Identifier: Apache-2.0
// Films changed at random for training: which part of them is seen, how often mirrored, and that
// this depends on seed, epoch, study and view alone.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <set>

#include "pinion/accel/data/data_loader.h"
#include "pinion/apps/report/study_batches.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::report {
namespace {

constexpr int64_t kStudies = 60;
constexpr int64_t kSide = 4, kShort = 8;

// A film of the size that parts are cut from, of which each pixel tells its place.
Image film_of_places() {
  Image film{kShort, 12, 1, {}};
  for (int64_t y = 0; y < film.height; ++y)
    for (int64_t x = 0; x < film.width; ++x)
      film.pixels.push_back(static_cast<uint8_t>(16 * y + x));
  return film;
}

class AugmentationTest : public testing::Test {
 protected:
  AugmentationTest() {
    make_dirs(dir_ / "images");
    write_file_atomic(dir_ / "images/0.png", encode_png(film_of_places()));
    std::string splits[3];
    for (int64_t i = 0; i < 3 * kStudies; ++i)
      splits[i / kStudies] += fmt::format(
          R"({}{{"id": "{}", "report": "No change.", "image_path": ["0.png", "0.png"]}})",
          i % kStudies == 0 ? "" : ",", i);
    write_file_atomic(dir_ / "annotation.json",
                      fmt::format(R"({{"train": [{}], "val": [{}], "test": [{}]}})", splits[0],
                                  splits[1], splits[2]));
    set_ = std::make_shared<const StudySet>(
        load_studies(dir_ / "annotation.json", dir_ / "images", DatasetName::iu_xray));
    tokenizer_ = std::make_shared<const Tokenizer>(set_->cleaned_reports(Split::train), 1);
  }

  StudyBatches batches(Split split, std::optional<Augmentation> augmentation) const {
    const ImageForm form{kSide, kShort, 1, {0, 0, 0}, {1 / 255.0, 1, 1}};  // values as in the file
    return {set_, split, tokenizer_, form, 60, augmentation};
  }

  TempDir dir_;
  std::shared_ptr<const StudySet> set_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

std::vector<float> images_of(const StudyBatches& data, int64_t epoch) {
  std::vector<int64_t> all(static_cast<size_t>(data.size()));
  std::iota(all.begin(), all.end(), int64_t{0});
  return data.get(all, epoch).images.values<float>();
}

struct Seen {
  int64_t top, left;
  bool mirrored;
  auto operator<=>(const Seen&) const = default;
};

// What a view of kSide x kSide shows; all its pixels must agree.
Seen seen_in(const float* view) {
  const auto value = [&](int64_t y, int64_t x) {
    return static_cast<int64_t>(std::lround(view[y * kSide + x]));
  };
  const bool mirrored = value(0, 0) > value(0, 1);
  const int64_t corner = value(0, mirrored ? kSide - 1 : 0);
  for (int64_t y = 0; y < kSide; ++y)
    for (int64_t x = 0; x < kSide; ++x)
      EXPECT_EQ(value(y, x), corner + 16 * y + (mirrored ? kSide - 1 - x : x));
  return {corner / 16, corner % 16, mirrored};
}

std::vector<Seen> all_seen(const std::vector<float>& images) {
  std::vector<Seen> seen;
  for (size_t at = 0; at < images.size(); at += kSide * kSide)
    seen.push_back(seen_in(images.data() + at));
  return seen;
}

TEST_F(AugmentationTest, CutsAnyPartAndMirrorsAsOftenAsAsked) {
  for (const double hflip_prob : {0.0, .5, 1.0}) {
    const StudyBatches data = batches(Split::train, Augmentation{hflip_prob, 3});
    std::set<int64_t> tops, lefts;
    std::set<Seen> views;
    int64_t mirrored = 0, count = 0;
    for (int64_t epoch = 0; epoch < 10; ++epoch)
      for (const Seen& seen : all_seen(images_of(data, epoch))) {
        tops.insert(seen.top), lefts.insert(seen.left), views.insert(seen);
        mirrored += seen.mirrored, ++count;
      }
    EXPECT_THAT(tops, testing::ElementsAre(0, 1, 2, 3, 4));
    EXPECT_THAT(lefts, testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
    EXPECT_EQ(views.size(), 45U * (hflip_prob == .5 ? 2 : 1));
    EXPECT_NEAR(static_cast<double>(mirrored) / static_cast<double>(count), hflip_prob, .05);
  }
}

TEST_F(AugmentationTest, ScalesTheShortSideFirst) {
  Image film{12, 27, 1, {}};
  for (size_t i = 0; i < 12 * 27; ++i) film.pixels.push_back(static_cast<uint8_t>(i * 97 % 251));
  write_file_atomic(dir_ / "images/0.png", encode_png(film));
  const Image scaled = resize(film, kShort, 18);
  std::set<std::vector<uint8_t>> parts;
  for (int64_t top = 0; top <= kShort - kSide; ++top)
    for (int64_t left = 0; left <= 18 - kSide; ++left)
      parts.insert(crop(scaled, top, left, kSide, kSide).pixels);
  const auto images = images_of(batches(Split::train, Augmentation{0, 3}), 0);
  for (size_t at = 0; at < images.size(); at += kSide * kSide) {
    std::vector<uint8_t> part;
    for (size_t i = 0; i < kSide * kSide; ++i)
      part.push_back(static_cast<uint8_t>(std::lround(images[at + i])));
    ASSERT_TRUE(parts.contains(part)) << at;
  }
}

TEST_F(AugmentationTest, DrawsForEachSeedEpochStudyAndView) {
  const auto images = images_of(batches(Split::train, Augmentation{.5, 3}), 1);
  EXPECT_EQ(images, images_of(batches(Split::train, Augmentation{.5, 3}), 1));
  EXPECT_NE(images, images_of(batches(Split::train, Augmentation{.5, 3}), 2));
  EXPECT_NE(images, images_of(batches(Split::train, Augmentation{.5, 4}), 1));
  const std::vector<Seen> seen = all_seen(images);
  int64_t same_views = 0, same_studies = 0;
  for (size_t i = 0; i < kStudies; ++i) {
    same_views += seen[i] == seen[i + kStudies];
    same_studies += seen[i] == seen[(i + 1) % kStudies];
  }
  EXPECT_LT(same_views, 10);  // one in 90 by chance
  EXPECT_LT(same_studies, 10);
}

TEST_F(AugmentationTest, LeavesTheOtherSplitsAlone) {
  for (const Split split : {Split::val, Split::test}) {
    const StudyBatches data = batches(split, {});
    const std::vector<float> images = images_of(data, 0);
    EXPECT_EQ(images, images_of(data, 5));
    const Image whole = resize(film_of_places(), kSide, kSide);  // whatever its form
    for (size_t i = 0; i < images.size(); ++i)
      ASSERT_NEAR(images[i], whole.pixels[i % (kSide * kSide)], 1e-4);
  }
}

TEST_F(AugmentationTest, IsTheSameForAnyWorkersAndAfterAResume) {
  const auto images_by_epoch = [&](int workers, bool resumed) {
    accel::DataLoader loader(batches(Split::train, Augmentation{.5, 3}),
                             {.batch_size = 7, .shuffle = true, .workers = workers, .seed = 5});
    std::vector<std::vector<float>> images;
    if (resumed) loader.seek(1, 14);
    for (int64_t epoch = resumed ? 1 : 0; epoch < 3; ++epoch)
      for (const StudyBatch& batch : loader) images.push_back(batch.images.values<float>());
    return images;
  };
  const auto expected = images_by_epoch(0, false);
  ASSERT_EQ(expected.size(), 27U);
  for (const int workers : {1, 3}) EXPECT_EQ(images_by_epoch(workers, false), expected);
  for (const int workers : {0, 2})
    EXPECT_EQ(images_by_epoch(workers, true),
              std::vector(expected.begin() + 9 + 2, expected.end()));
}

}  // namespace
}  // namespace pinion::report
