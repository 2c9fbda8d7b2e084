// SPDX-License-Identifier: Apache-2.0
// The sets that make_cxr writes, in both layouts and all wordings, and training on them: also on
// two ranks where an image is damaged.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "pinion/apps/report/findings.h"
#include "pinion/apps/report/image.h"
#include "report_testing.h"

namespace pinion::report {
namespace {

using testing::HasSubstr;

class ReportSets : public ReportPrograms {
 protected:
  void SetUp() override {}
  void make(const std::string& name, const std::vector<std::string>& more) const {
    std::vector<std::string> all = {program("make_cxr"), "--output_dir=" + dir_ / name};
    all.insert(all.end(), more.begin(), more.end());
    const Result made = run(all);
    ASSERT_EQ(made.code, 0) << made.err;
  }
  std::vector<std::string> files_of(const std::string& name) const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir_ / name))
      if (entry.is_regular_file())
        files.push_back(std::filesystem::relative(entry, dir_ / name).string());
    std::sort(files.begin(), files.end());
    return files;
  }
  nlohmann::json json(const std::string& name) const { return parse_json(text(name), name); }
};

TEST_F(ReportSets, AreAFunctionOfTheSeed) {
  const std::vector<std::string> small = {"--studies", "5", "2", "3", "--size=48", "--pairs"};
  make("a", small);
  setenv("PINION_NUM_THREADS", "1", 1);
  make("b", small);
  unsetenv("PINION_NUM_THREADS");
  ASSERT_EQ(files_of("a").size(), 2U + 2 * 13);
  EXPECT_EQ(files_of("a"), files_of("b"));
  for (const std::string& file : files_of("a")) EXPECT_EQ(text("a/" + file), text("b/" + file));
  auto other = small;
  other.push_back("--seed=2");
  make("c", other);
  for (const char* file : {"findings.json", "images/train00000/0.png"})
    EXPECT_NE(text(std::string("a/") + file), text(std::string("c/") + file)) << file;
  // Texts are made of integers alone, so that they are the same on every machine.
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char byte : text("a/annotation.json"))
    hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3u;
  EXPECT_EQ(hash, 0xd210e5f798bd7047u);

  // Of a pair, one finding differs, and so do the films; the boxes tell which.
  const nlohmann::json facts = json("a/findings.json");
  for (int i = 0; i < 3; ++i) {
    const std::string id = "test0000" + std::to_string(i);
    int differences = 0;
    for (const auto& [name, value] : facts[id]["labels"].items())
      differences += value != facts[id + "-pair"]["labels"][name];
    EXPECT_EQ(differences, 1) << id;
    EXPECT_NE(facts[id]["boxes"], facts[id + "-pair"]["boxes"]) << id;
  }
}

TEST_F(ReportSets, LabelsAndBoxesFitTheReports) {
  for (const char* style : {"plain", "visible", "random"}) {
    make(style, {"--studies", "40", "0", "0", "--size=32", std::string("--style=") + style,
                 "--findings=many"});
    const nlohmann::json facts = json(std::string(style) + "/findings.json");
    const nlohmann::json studies = json(std::string(style) + "/annotation.json")["train"];
    std::set<std::string> normal_hearts;
    for (const auto& study : studies) {
      const auto report = study["report"].get<std::string>();
      EXPECT_TRUE(says_all_findings(report)) << report;
      const Findings said = findings_in(report);
      const nlohmann::json& fact = facts[study["id"].get<std::string>()];
      std::set<std::string> boxed, positive;
      for (const auto& box : fact["boxes"]) boxed.insert(box["finding"].get<std::string>());
      for (size_t a = 0; a < kAttributes; ++a) {
        const AttributeInfo& info = attribute_table()[a];
        EXPECT_EQ(fact["labels"][info.name], info.values[said.values[a]].name) << report;
        if (said.values[a] != 0) positive.insert(info.name);
      }
      EXPECT_EQ(boxed, positive) << report;
      if (said[Attribute::heart] == kHeartNormal)
        normal_hearts.insert(report.substr(0, report.find(" .")));
    }
    EXPECT_EQ(std::min(normal_hearts.size(), kStyles), style == std::string("plain") ? 1 : kStyles)
        << style;
  }
}

TEST_F(ReportSets, InMimicsLayoutTrain) {
  make("mimic", {"--studies", "24", "8", "8", "--size=64", "--dataset_name=mimic_cxr"});
  const nlohmann::json study = json("mimic/annotation.json")["val"][0];
  ASSERT_EQ(study["image_path"].size(), 1U);
  EXPECT_EQ(study["image_path"][0], "p10/p10000024/s50000024/val00000.jpg");
  EXPECT_EQ(decode_image(text("mimic/images/p10/p10000024/s50000024/val00000.jpg"), "a").width, 64);
  const Result result = run(
      launched(2, command("run", {"--epochs=2", "--batch_size=4", "--dataset_name=mimic_cxr",
                                  "--image_dir=" + dir_ / "mimic/images", "--max_seq_length=100",
                                  "--ann_path=" + dir_ / "mimic/annotation.json"})));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("24 studies to train on, 8 and 8 to test"));
  EXPECT_LT(losses("run")[1], losses("run")[0] - .1);
  EXPECT_TRUE(exists(dir_ / "records/mimic_cxr.csv"));
}

TEST_F(ReportSets, ABadSampleIsSkippedAlikeOnAllRanks) {
  make("cxr", {"--studies", "100", "4", "4", "--size=64"});
  const std::string film = "cxr/images/train00007/1.png", whole = text(film);
  write_file_atomic(dir_ / film, whole.substr(0, whole.size() / 2));
  const std::vector<std::string> flags = {"--epochs=1", "--batch_size=5"};
  const Result refused = run(launched(2, command("refused", flags)));
  EXPECT_EQ(refused.code, 65);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("study 'train00007'"), HasSubstr("1.png")));

  auto skip = flags;
  skip.push_back("--on_bad_sample=skip");
  const Result skipped = run(launched(2, command("skipped", skip)));
  ASSERT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_THAT(skipped.out,
              AllOf(HasSubstr("Skipped study 'train00007'"), HasSubstr("Skipped 1 of 108 studies"),
                    HasSubstr("99 studies to train on, 4 and 4 to test")));
  // It is the run on a set that never had the study.
  nlohmann::json annotation = json("cxr/annotation.json");
  annotation["train"].erase(7);
  write_file_atomic(dir_ / "cxr/annotation.json", annotation.dump());
  ASSERT_EQ(run(launched(2, command("without", flags))).code, 0);
  EXPECT_EQ(text("skipped/metrics.jsonl"), text("without/metrics.jsonl"));
  EXPECT_EQ(text("skipped/model_best/model.safetensors"),
            text("without/model_best/model.safetensors"));
}

}  // namespace
}  // namespace pinion::report
