// SPDX-License-Identifier: Apache-2.0
// Annotation files, good and bad, and the batches that are made of their studies.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <atomic>
#include <numeric>

#include "pinion/apps/report/evaluation.h"
#include "pinion/apps/report/film.h"
#include "pinion/apps/report/study_batches.h"
#include "pinion/nn/ops.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::report {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const char* kGood = R"({"train": [
  {"id": "a", "report": "Heart size is normal.",
   "image_path": ["a/0.png", "a/1.png"], "split": "train"},
  {"id": "b", "report": "Heart is enlarged. No pneumothorax.",
   "image_path": ["a/0.png", "a/1.png"], "split": "train"}],
 "val": [], "test": []})";

class StudiesTest : public testing::Test {
 protected:
  StudySet load(const std::string& annotation, DatasetName dataset = DatasetName::iu_xray) {
    write_file_atomic(dir_ / "annotation.json", annotation);
    return load_studies(dir_ / "annotation.json", dir_ / "images", dataset);
  }
  std::string refusal_of(const std::string& annotation) {
    try {
      load(annotation);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::data);
      return e.what();
    }
    return "no error";
  }
  void write_film(const char* name, uint8_t value) {
    make_dirs(parent_dir(dir_ / "images" + "/" + name));
    write_file_atomic(dir_ / "images" + "/" + name,
                      encode_png({4, 4, 1, std::vector<uint8_t>(16, value)}));
  }

  TempDir dir_;
};

TEST_F(StudiesTest, ReadsStudiesOfThreeSplits) {
  const StudySet set = load(kGood);
  EXPECT_EQ(set.of(Split::train).size(), 2U);
  EXPECT_EQ(set.of(Split::val).size(), 0U);
  EXPECT_EQ(set.views(), 2);
  EXPECT_THAT(set.of(Split::train)[1].images, ElementsAre("a/0.png", "a/1.png"));
  EXPECT_THAT(load(kGood, DatasetName::mimic_cxr).of(Split::train)[0].images,
              ElementsAre("a/0.png"));
}

TEST_F(StudiesTest, SaysAllThatIsWrongWithItsPlace) {
  const std::string text = refusal_of(R"({"train": [
  {"id": "a", "report": " ", "image_path": ["../0.png", "/etc/1.png"]},
  {"id": "a", "report": 7, "image_path": ["a/0.png"]}, 3],
 "val": {}})");
  EXPECT_THAT(text, HasSubstr("annotation.json: 9 problems"));
  EXPECT_THAT(text, HasSubstr(":2:3: expected a text that is not empty as 'report', got an empty"));
  EXPECT_THAT(text,
              HasSubstr("study 'a': expected a path below the image folder, got \"../0.png\""));
  EXPECT_THAT(text, HasSubstr("got \"/etc/1.png\""));
  EXPECT_THAT(text, HasSubstr(":3:3: expected each id once, got 'a' again"));
  EXPECT_THAT(text, HasSubstr("'report', got number"));
  EXPECT_THAT(text, HasSubstr("with at least 2 images"));
  EXPECT_THAT(text, HasSubstr("expected a list of studies 'test', got none"));
  EXPECT_THAT(refusal_of("[]"), HasSubstr("expected a list of studies 'train', got none"));
  EXPECT_THAT(refusal_of("{\"train\": ["), HasSubstr("annotation.json:1:"));
  EXPECT_THAT(refusal_of(std::string(100'000, '[')), HasSubstr("annotation.json:1:"));
  std::string bytes = kGood;
  bytes[bytes.find("Heart")] = '\xff';
  EXPECT_THAT(refusal_of(bytes), HasSubstr("annotation.json:2:"));  // not UTF-8
  for (const char* path : {"a/../../0.png", "./0.png", "a//0.png", "a/", "", "a/\\u00000.png"})
    EXPECT_THAT(refusal_of(R"({"train": [{"id": "a", "report": "x.", "image_path": [")" +
                           std::string(path) + R"(", "b"]}], "val": [], "test": []})"),
                HasSubstr("study 'a': expected a path below the image folder"))
        << path;
}

TEST_F(StudiesTest, NamesTheStudyWhoseImageIsBad) {
  const StudySet set = load(kGood);
  const auto error_of_view = [&](int64_t view) -> std::pair<ErrorKind, std::string> {
    try {
      set.load(set.of(Split::train)[0], view);
    } catch (const Error& e) {
      return {e.kind(), e.what()};
    }
    return {ErrorKind::internal, "no error"};
  };
  EXPECT_EQ(error_of_view(0).first, ErrorKind::missing);
  EXPECT_THAT(error_of_view(0).second, HasSubstr("study 'a': "));
  make_dirs(dir_ / "images/a/0.png");
  EXPECT_EQ(error_of_view(0).first, ErrorKind::data);  // a folder
  write_film("a/1.png", 3);
  EXPECT_EQ(error_of_view(1).second, "no error");
}

TEST_F(StudiesTest, NothingOutsideTheImageFolderIsOpened) {
  const StudySet set = load(kGood);
  make_dirs(dir_ / "images/a");
  write_file_atomic(dir_ / "outside.png", encode_png({4, 4, 1, std::vector<uint8_t>(16, 7)}));
  const auto error_of_view = [&](int64_t view) {
    return error_of([&] { set.load(set.of(Split::train)[0], view); });
  };
  std::filesystem::create_symlink("../../outside.png", dir_ / "images/a/0.png");
  EXPECT_EQ(error_of_view(0).kind(), ErrorKind::data);
  EXPECT_THAT(error_of_view(0).what(), AllOf(HasSubstr("study 'a': "), HasSubstr("images/a/0.png"),
                                             HasSubstr("symbolic link")));
  ASSERT_EQ(mkfifo((dir_ / "images/a/1.png").c_str(), 0600), 0);  // is not waited for
  EXPECT_EQ(error_of_view(1).kind(), ErrorKind::data);
  EXPECT_THAT(error_of_view(1).what(), AllOf(HasSubstr("study 'a': "), HasSubstr("FIFO")));
  std::filesystem::remove_all(dir_ / "images/a");
  std::filesystem::create_directory_symlink("..", dir_ / "images/a");  // a folder on the way
  std::filesystem::copy_file(dir_ / "outside.png", dir_ / "0.png");
  EXPECT_EQ(error_of_view(0).kind(), ErrorKind::data);
  // The image folder itself may be a link, as on machines with a disk for data.
  std::filesystem::remove(dir_ / "images/a");
  std::filesystem::rename(dir_ / "images", dir_ / "disk");
  std::filesystem::create_directory_symlink("disk", dir_ / "images");
  write_film("a/0.png", 9);
  EXPECT_EQ(set.load(set.of(Split::train)[0], 0).pixels[0], 9);

  FaultyFs faulty;
  const FsGuard guard(faulty);
  faulty.fail_call("open_in", 1, EACCES);
  EXPECT_EQ(error_of_view(0).kind(), ErrorKind::io);
  faulty.fail_call("open_in", 1, EACCES);
  EXPECT_THAT(error_of_view(0).what(), AllOf(HasSubstr("study 'a': "), HasSubstr("EACCES")));
}

// 100 studies each to train, validate and test on, all with the same two images.
std::string many_studies() {
  std::string text = "{";
  for (int i = 0; i < 300; ++i) {
    if (i % 100 == 0)
      text += std::string(i ? "]," : "") + "\"" + name_of(static_cast<Split>(i / 100)) + "\": [";
    text += std::string(i % 100 ? "," : "") + R"({"id": ")" + std::to_string(i) +
            R"(", "report": "Clear.", "image_path": ["a/0.png", ")" +
            (i % 100 == 50 ? "b/" + std::to_string(i) : "a/1") + R"(.png"]})";
  }
  return text + "]}";
}

TEST_F(StudiesTest, TakesOutUpToOneInAHundredThatCannotBeRead) {
  write_film("a/0.png", 0);
  write_film("a/1.png", 255);
  write_film("b/150.png", 1);
  const std::string film = read_file(dir_ / "images/b/150.png", 1000);
  write_file_atomic(dir_ / "images/b/250.png", film.substr(0, film.size() - 20));  // cut off
  for (const int threads : {0, 1, 4}) {
    StudySet set = load(many_studies());
    std::atomic<int> seen = 0;
    const auto bad = take_out_bad_studies(set, threads, [&] { ++seen; });
    EXPECT_THAT(bad, ElementsAre(HasSubstr("study '50': "), HasSubstr("study '250': ")));
    EXPECT_EQ(seen, 300);
    EXPECT_EQ(set.of(Split::train).size(), 99U);
    EXPECT_EQ(set.of(Split::train)[50].id, "51");
    EXPECT_EQ(set.of(Split::val).size(), 100U);
    EXPECT_EQ(set.of(Split::test).size(), 99U);
  }
  const auto error_with = [&](const std::string& annotation) -> std::string {
    StudySet set = load(annotation);
    try {
      take_out_bad_studies(set, 2, {});
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::data);
      return e.what();
    }
    return "no error";
  };
  write_file_atomic(dir_ / "images/b/150.png", "text");
  EXPECT_EQ(error_with(many_studies()), "no error");  // 3 of 300
  write_film("a/0.png", 0);
  write_file_atomic(dir_ / "images/a/1.png", encode_png({1, 40, 1, std::vector<uint8_t>(40)}));
  EXPECT_THAT(error_with(many_studies()),
              HasSubstr("those of 300 of 300 are not; the first: study '0': "));
  EXPECT_THAT(error_with(many_studies()), HasSubstr("sides differ at most 16 times, got 1 x 40"));
  std::string four = many_studies();
  const size_t at = four.find("a/1.png");
  write_film("a/1.png", 255);
  EXPECT_THAT(error_with(four.replace(at, 7, "c/1.png")), HasSubstr("those of 4 of 300"));
}

TEST_F(StudiesTest, StacksViewsAndShiftsWords) {
  write_film("a/0.png", 0);
  write_film("a/1.png", 255);
  const auto set = std::make_shared<const StudySet>(load(kGood));
  const auto tokenizer = std::make_shared<const Tokenizer>(set->cleaned_reports(Split::train), 1);
  const ImageForm form{2, 2, 1, {.5, .5, .5}, {.25, .25, .25}};
  const StudyBatches batches(set, Split::train, tokenizer, form, 60);
  const std::vector<int64_t> both = {0, 1};
  const StudyBatch batch = batches.get(both);

  EXPECT_EQ(batch.images.shape(), (Shape{4, 2, 2, 1}));
  EXPECT_EQ(batch.images.values<float>()[0], -2);  // view 0 of both studies first
  EXPECT_EQ(batch.images.values<float>()[7], -2);
  EXPECT_EQ(batch.images.values<float>()[8], 2);
  const auto ids = batch.ids.values<int64_t>(), targets = batch.targets.values<int64_t>();
  const auto steps = static_cast<size_t>(batch.ids.size(1));
  ASSERT_EQ(steps, 8U);  // 7 words and the end
  EXPECT_EQ(ids[0], 0);
  for (size_t t = 1; t < steps; ++t) EXPECT_EQ(ids[steps + t], targets[steps + t - 1]);
  EXPECT_EQ(batches.reference(0), "heart size is normal .");
  const auto weight = batch.weight.values<float>();
  EXPECT_EQ(std::accumulate(weight.begin(), weight.end(), 0.0F), 6 + 8);
  const auto padding = nn::cast(batch.padding, DType::u8).values<uint8_t>();
  for (size_t t = 0; t < steps; ++t) EXPECT_EQ(padding[t], t > 5) << t;
}

// Of 4 films of 4 bytes the first 2 stay: view 0 of both studies.
TEST_F(StudiesTest, KeepsFilmsWhileThereIsRoom) {
  const auto set = std::make_shared<const StudySet>(load(kGood));
  const auto tokenizer = std::make_shared<const Tokenizer>(set->cleaned_reports(Split::train), 1);
  const ImageForm form{2, 2, 1, {.5, .5, .5}, {.25, .25, .25}};
  const StudyBatches batches(set, Split::train, tokenizer, form, 60, {}, 11);
  const std::vector<int64_t> both = {0, 1};
  for (const int value : {0, 255}) {
    for (const char* film : {"a/0.png", "a/1.png"}) write_film(film, static_cast<uint8_t>(value));
    const auto images = batches.get(both).images.values<float>();
    ASSERT_EQ(images.size(), 16U);
    EXPECT_EQ(images[0], -2);
    EXPECT_EQ(images[7], -2);
    EXPECT_EQ(images[8], value == 0 ? -2 : 2);
    EXPECT_EQ(images[15], value == 0 ? -2 : 2);
  }
}

TEST(Evaluation, SetsWrittenReportsBesideThoseThatDoNotLook) {
  std::vector<Pair> pairs;
  std::vector<std::string> reports;
  for (uint64_t i = 0; i < 40; ++i) {
    const std::string report = report_of(draw_findings(1, 2, i));
    pairs.push_back({report, {report}});
    reports.push_back(report);
  }
  const Figures perfect = figures_of(pairs);
  EXPECT_EQ(perfect.of("F1"), 1);
  EXPECT_EQ(perfect.of("exact"), 1);
  EXPECT_NEAR(perfect.of("BLEU_4"), 1, 1e-9);
  const Controls controls = controls_of(pairs, "no device .", reports);
  const auto row = [&](size_t i, const std::string& name) {
    EXPECT_EQ(controls.table.at(i).first, name);
    return controls.table.at(i).second;
  };
  EXPECT_EQ(row(0, "as written").values, perfect.values);
  EXPECT_LT(row(1, "shuffled images").of("F1"), .5);
  EXPECT_LT(row(2, "blank images").of("exact"), .2);
  const Figures constant = row(3, "best constant");
  EXPECT_LT(constant.of("F1"), .5);
  EXPECT_GT(constant.of("BLEU_4"), .3);  // which is why F1 stands beside it
  EXPECT_EQ(constant.of("unique"), 1);
  EXPECT_NE(std::find(reports.begin(), reports.end(), controls.constant_report), reports.end());
  EXPECT_THROW(perfect.of("METEOR"), Error);

  // Each finding on its own: one heart said wrongly is the only one of its kind.
  size_t large = 0;
  while (findings_in(pairs[large].references[0])[Attribute::heart] != kHeartMarked) ++large;
  Findings wrong = findings_in(pairs[large].references[0]);
  wrong[Attribute::heart] = kHeartMild;
  pairs[large].hypothesis = report_of(wrong);
  const auto rows = by_finding(controls_of(pairs, "no device .", reports).table);
  ASSERT_EQ(rows.size(), 1 + kAlwaysSaid);
  EXPECT_THAT(rows[0], ElementsAre("finding", "precision", "recall", "F1", "F1, shuffled images",
                                   "F1, blank images", "F1, best constant"));
  const auto hearts = std::count_if(pairs.begin(), pairs.end(), [](const Pair& pair) {
    return findings_in(pair.references[0])[Attribute::heart] != kHeartNormal;
  });
  const std::string share = std::to_string(1 - 1.0 / static_cast<double>(hearts)).substr(0, 4);
  EXPECT_THAT(rows[1], ElementsAre("heart", HasSubstr(share), HasSubstr(share), HasSubstr(share),
                                   testing::Ne("1.000"), "0.000", testing::_));
  EXPECT_EQ(rows[2][3], "1.000");
  EXPECT_TRUE(by_finding({{"as written", figures_of({{"a b", {"a b c"}}})}}).empty());
  EXPECT_FALSE(figures_of({{"a b", {"a b c"}}}).has("F1"));
}

}  // namespace
}  // namespace pinion::report
