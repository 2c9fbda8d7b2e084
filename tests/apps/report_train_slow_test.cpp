// SPDX-License-Identifier: Apache-2.0
// The programs of the report generator as their users meet them: make_cxr, train_with_accelerate
// plain, under `pinion launch`, stopped and resumed, and generate on films of all kinds.
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "image_testing.h"
#include "report_testing.h"

namespace pinion::report {
namespace {

using testing::HasSubstr;

TEST_F(ReportPrograms, TrainsOnOneRankAndOnTwo) {
  // Words drawn by chance, so that eval must know every setting to write the same.
  const Result plain = train("plain", {"--epochs=2", "--batch_size=8", "--sample_method=top20",
                                       "--temperature=2", "--suppress_UNK=true"});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.out, HasSubstr("24 studies to train on, 8 and 8 to test"));
  EXPECT_THAT(plain.out, HasSubstr("shuffled images"));
  for (const char* file : {"plain/report.html", "plain/model_best/vocabulary.txt",
                           "plain/model_best/model.json", "records/iu_xray.csv"})
    EXPECT_TRUE(exists(dir_ / file)) << file;

  // What eval says of the best model is what training said.
  const std::string table = plain.out.substr(plain.out.find("  as written"));
  EXPECT_THAT(table, HasSubstr("frontal only"));
  EXPECT_THAT(text("plain/report.html"), HasSubstr("figcaption"));
  const Result eval = run({program("eval"), "--cpu", "--checkpoint=" + dir_ / "plain/model_best",
                           "--image_dir=" + dir_ / "cxr/images",
                           "--ann_path=" + dir_ / "cxr/annotation.json", "--batch_size=3"});
  ASSERT_EQ(eval.code, 0) << eval.err;
  EXPECT_EQ(eval.out, "8 studies of the split test\n" + table.substr(0, table.find("\n\n") + 1));

  const Result ranks =
      run(launched(2, command("ranks", {"--epochs=2", "--batch_size=4", "--profile"})));
  ASSERT_EQ(ranks.code, 0) << ranks.err;
  EXPECT_TRUE(exists(dir_ / "ranks/profile_1.json"));
  EXPECT_THAT(text("ranks/report.html"), HasSubstr("Where the time of training went"));
  EXPECT_THAT(text("ranks/report.html"), HasSubstr(">conv2d, backward<"));
  EXPECT_THAT(ranks.out, HasSubstr("2 ranks on cpu"));
  const auto one = losses("plain"), two = losses("ranks");
  ASSERT_EQ(one.size(), 2U);
  ASSERT_EQ(two.size(), 2U);
  EXPECT_LT(one[1], one[0] - 0.1);
  EXPECT_LT(two[1], two[0] - 0.1);
  // The same global batches from the same weights; only the batch statistics are of each rank.
  EXPECT_NEAR(one[0], two[0], 0.1);
  const Result sync =
      run(launched(2, command("sync", {"--epochs=2", "--batch_size=4", "--sync_bn"})));
  ASSERT_EQ(sync.code, 0) << sync.err;
  const auto same = losses("sync");
  ASSERT_EQ(same.size(), 2U);
  // Equal but for dropout, which every rank draws for itself; sync_batch_norm_test is exact.
  EXPECT_NEAR(one[1], same[1], 0.1);
  EXPECT_NE(same[1], two[1]);
}

// Batches of 3 out of 40 and 9 studies: the last round is short, and one rank has nothing in it.
TEST_F(ReportPrograms, EvaluatesTheSameOnAnyNumberOfRanks) {
  ASSERT_EQ(run({program("make_cxr"), "--output_dir=" + dir_ / "cxr", "--studies", "24", "40", "9",
                 "--size=64", "--pairs"})
                .code,
            0);
  const Result trained = run(launched(
      2, command("run", {"--epochs=2", "--batch_size=3", "--sample_method=sample", "--seed=0"})));
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto eval = [&](int ranks, const std::string& split, const std::vector<std::string>& more) {
    std::vector<std::string> all = {program("eval"),
                                    "--cpu",
                                    "--checkpoint=" + dir_ / "run/model_best",
                                    "--image_dir=" + dir_ / "cxr/images",
                                    "--ann_path=" + dir_ / "cxr/annotation.json",
                                    "--batch_size=3",
                                    "--split=" + split,
                                    "--output=" + dir_ / "out.json"};
    all.insert(all.end(), more.begin(), more.end());
    const Result result = run(launched(ranks, all));
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr(split == "test" ? "paired studies" : "as written"));
    return text("out.json");  // every figure to its last bit, and every report
  };
  const std::string one = eval(1, "test", {"--beam_size=2", "--sample_method=beam_search"});
  EXPECT_THAT(one, HasSubstr("test00008-pair"));
  for (const int ranks : {2, 3})
    EXPECT_EQ(eval(ranks, "test", {"--beam_size=2", "--sample_method=beam_search"}), one);

  // On validation, what two ranks said while they trained is what one says of the saved model.
  eval(1, "val", {});
  const auto figures = parse_json(text("out.json"), "out.json")["figures"]["as written"];
  std::istringstream lines(text("run/metrics.jsonl"));
  bool found = false;
  for (std::string line; std::getline(lines, line);) {
    const auto record = parse_json(line, "metrics.jsonl");
    bool equal = true;
    for (const auto& [name, value] : figures.items()) equal = equal && record[name] == value;
    found = found || equal;
  }
  EXPECT_TRUE(found) << figures.dump() << "\n" << text("run/metrics.jsonl");
}

TEST_F(ReportPrograms, MemoryThatRunsOutIsAnsweredWithAdvice) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers reserve more than any limit";
#endif
  std::vector<std::string> all = {"/bin/sh", "-c", "ulimit -v 3000000; exec \"$0\" \"$@\""};
  for (const std::string& part : command("large", {"--epochs=1", "--d_ff=100000000"}))
    all.push_back(part);
  const Result result = run(all);
  EXPECT_EQ(result.code, 71) << result.err;
  EXPECT_THAT(result.err, HasSubstr("--batch_size"));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST_F(ReportPrograms, OtherWordsThanTheCheckpointsAreRefused) {
  ASSERT_EQ(train("run", {"--epochs=1"}).code, 0);
  const Result fewer = train("run", {"--epochs=2", "--threshold=20", "--resume"});
  EXPECT_EQ(fewer.code, 80) << fewer.err;
  std::string annotation = text("cxr/annotation.json");
  for (size_t at = 0; (at = annotation.find("heart", at)) != std::string::npos; ++at)
    annotation.replace(at, 5, "heard");  // as many words, in the same order
  write_file_atomic(dir_ / "cxr/annotation.json", annotation);
  const Result other = train("run", {"--epochs=2", "--resume"});
  EXPECT_EQ(other.code, 80) << other.err;
  EXPECT_THAT(other.err, HasSubstr("expected the vocabulary of these training reports"));
}

TEST_F(ReportPrograms, ResumesAsIfItHadNotStopped) {
  const std::vector<std::string> epochs = {"--epochs=4", "--batch_size=2"};
  ASSERT_EQ(train("whole", epochs).code, 0);
  const pid_t child = start(command("parts", epochs));
  while (text("stdout").find("Epoch 2/4") == std::string::npos)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  kill(child, SIGTERM);
  const Result stopped = wait(child);
  EXPECT_EQ(stopped.code, 75) << stopped.err;
  const Result rest = train("parts", {"--epochs=4", "--batch_size=2", "--resume"});
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_THAT(rest.out, testing::Not(HasSubstr("Epoch 2/4")));
  EXPECT_EQ(text("whole/metrics.jsonl"), text("parts/metrics.jsonl"));
  EXPECT_EQ(text("whole/model_best/model.safetensors"), text("parts/model_best/model.safetensors"));
}

// What was best so far lies in the folder of before: of this one's epochs the best counts.
TEST_F(ReportPrograms, ResumesInAnotherFolder) {
  ASSERT_EQ(train("before", {"--epochs=2"}).code, 0);
  const std::string checkpoint = "--resume=" + dir_ / "before/checkpoints";
  const Result nothing_left = train("after", {"--epochs=2", checkpoint});
  EXPECT_EQ(nothing_left.code, 64);
  EXPECT_THAT(nothing_left.err, HasSubstr("after/model_best/model.safetensors, got nothing left"));
  // Rates at which it can only become worse.
  const Result after = train("after", {"--epochs=3", "--resume=" + dir_ / "before", "--lr_ve=9",
                                       "--lr_ed=9", "--allow_config_change=lr_ve,lr_ed"});
  ASSERT_EQ(after.code, 0) << after.err;
  EXPECT_THAT(after.out, HasSubstr("Best: epoch 3"));
  EXPECT_EQ(losses("after").size(), 1U);
  EXPECT_TRUE(exists(dir_ / "after/report.html"));
}

// Findings are scored where the reports are of the synthetic set only; all runs share a file.
TEST_F(ReportPrograms, RecordsOfAllSetsHaveTheSameColumns) {
  ASSERT_EQ(train("with", {"--epochs=1"}).code, 0);
  std::string annotation = text("cxr/annotation.json");
  for (size_t at = 0; (at = annotation.find("heart", at)) != std::string::npos; ++at)
    annotation.replace(at, 5, "liver");
  write_file_atomic(dir_ / "cxr/annotation.json", annotation);
  const Result without = train("without", {"--epochs=1"});
  ASSERT_EQ(without.code, 0) << without.err;
  EXPECT_THAT(without.out, testing::Not(HasSubstr("F1")));
  const std::string records = text("records/iu_xray.csv");
  EXPECT_EQ(std::count(records.begin(), records.end(), '\n'), 3);
  EXPECT_THAT(records, HasSubstr("test_F1,test_exact\n"));
  EXPECT_TRUE(records.ends_with(",nan,nan\n")) << records;
}

TEST_F(ReportPrograms, BadInputIsNamed) {
  write_file_atomic(dir_ / "file", "");
  struct Case {
    std::vector<std::string> flags;
    int code;
    const char* text;
  };
  for (const Case& c :
       {Case{{"--d_model=30"}, 64, "expected a divisor of the width 30, got 4"},
        Case{{"--visual_extractor=vgg"}, 64, "--visual_extractor: expected"},
        Case{{"--ann_path=/none.json"}, 66, "/none.json"},
        Case{{"--monitor_metric=BLEU_9"},
             64,
             "expected one of BLEU_1, BLEU_2, BLEU_3, BLEU_4, ROUGE_L"},
        Case{{"--n_gpu=2"}, 64, "--n_gpu"},
        Case{{"--epochs=0"}, 64, "--epochs: expected a number above 0, got 0"},
        Case{{"--seed=-1"}, 64, "--seed: expected a number of at least 0, got -1"},
        Case{{"--d_vf=2048"}, 64, "--d_vf: expected the width of nano, 48, got 2048"},
        Case{{"--rm_num_heads=3"}, 64, "--rm_num_heads: expected a divisor of the width 64, got 3"},
        Case{{"--record_dir=" + dir_ / "file"}, 74, "file"},
        Case{{"--pretrained_weights=/none"}, 66, "/none"},
        Case{{"--length_penalty=x", "--sample_method=beam_search"}, 64, "--length_penalty"},
        Case{{"--sample_method=best"}, 64, "--sample_method"}}) {
    const Result result = train("bad", c.flags);
    EXPECT_EQ(result.code, c.code) << c.text;
    EXPECT_THAT(result.err, HasSubstr(c.text));
    EXPECT_EQ(result.out.find("Epoch"), std::string::npos) << c.text;  // before training starts
  }
  const Result untrained =
      train("good", {"--epochs=1", "--pretrained_weights=/none", "--adam_betas", "0.9", "0.98",
                     "--visual_extractor_pretrained=False"});
  EXPECT_EQ(untrained.code, 0) << untrained.err;
  const std::string film = "cxr/images/train00005/1.png", whole = text(film);
  write_file_atomic(dir_ / film, whole.substr(0, whole.size() / 2));
  const Result corrupt = train("bad", {"--epochs=1"});
  EXPECT_EQ(corrupt.code, 65);
  EXPECT_THAT(corrupt.err, HasSubstr("train00005"));
  remove_file(dir_ / film);
  const Result missing = train("bad", {"--epochs=1"});
  EXPECT_EQ(missing.code, 66);
  EXPECT_THAT(missing.err, HasSubstr("train00005/1.png"));
}

TEST_F(ReportPrograms, WritesReportsOfAnyFilms) {
  const Result trained = train("run", {"--epochs=6", "--batch_size=4", "--sample_method=greedy"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  const Image film = decode_image(text(kFrontal), kFrontal);
  Image rotated{film.width, film.height, 1, {}};
  for (int64_t y = 0; y < rotated.height; ++y)
    for (int64_t x = 0; x < rotated.width; ++x)
      rotated.pixels.push_back(
          film.pixels[static_cast<size_t>((film.height - 1 - x) * film.width + y)]);
  std::vector<uint8_t> wide;  // 16 bits of the same value are the same grey
  for (const uint8_t pixel : film.pixels) wide.insert(wide.end(), {pixel, pixel});
  write_file_atomic(dir_ / "rotated.png", encode_png(rotated));
  write_file_atomic(dir_ / "wide.png", png_of(PNG_COLOR_TYPE_GRAY, 16, film.height, wide));
  std::vector<uint8_t> bits(film.pixels.size() / 8);  // a palette of two colours
  for (size_t i = 0; i < film.pixels.size(); ++i)
    bits[i / 8] |= static_cast<uint8_t>((film.pixels[i] > 127) << (7 - i % 8));
  write_file_atomic(dir_ / "palette.png", png_of(PNG_COLOR_TYPE_PALETTE, 1, film.height, bits));
  write_file_atomic(dir_ / "large.jpg", jpeg_of(resize(with_channels(film, 3), 700, 500), true));

  const Result plain = generate("run/model_best", {kFrontal, kLateral});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.out, testing::StartsWith("Report: "));
  EXPECT_THAT(plain.out, HasSubstr("probability"));
  EXPECT_EQ(generate("run/model_best", {"wide.png", kLateral}).out, plain.out);
  for (const char* other : {"rotated.png", "large.jpg", "palette.png"}) {
    remove_file(dir_ / "attention.png");
    const Result result = generate("run/model_best", {other, kLateral});
    EXPECT_EQ(result.code, 0) << other << ": " << result.err;
    EXPECT_THAT(result.out, testing::StartsWith("Report: "));
    const Image picture = decode_image(text("attention.png"), "attention.png");
    EXPECT_EQ(picture.width, 2 * 192 + 4);
    EXPECT_EQ(picture.height % 196, 192);
  }
}

TEST_F(ReportPrograms, GenerateRefusesWhatDoesNotFit) {
  ASSERT_EQ(train("run", {"--epochs=1"}).code, 0);
  const Result alone = generate("run/model_best", {kFrontal});
  EXPECT_EQ(alone.code, 64);
  EXPECT_THAT(alone.err, HasSubstr("expected 2 images, one of each view, got 1"));
  EXPECT_EQ(generate("run/model_best", {kFrontal, "none.png"}).code, 66);
  EXPECT_EQ(generate("run/model_best", {kFrontal, "cxr/annotation.json"}).code, 65);
  EXPECT_EQ(generate("run", {kFrontal, kLateral}).code, 66);
  EXPECT_FALSE(exists(dir_ / "attention.png"));

  const std::string words = text("run/model_best/vocabulary.txt");
  write_file_atomic(dir_ / "run/model_best/vocabulary.txt", words + "zz\n");
  const Result more = generate("run/model_best", {kFrontal, kLateral});
  EXPECT_EQ(more.code, 80);
  EXPECT_THAT(more.err, HasSubstr("run/model_best"));
  // As many, but another: every number would mean something, and not what was learnt.
  const size_t last = words.rfind('\n', words.size() - 2) + 1;
  write_file_atomic(dir_ / "run/model_best/vocabulary.txt", words.substr(0, last) + "zz\n");
  for (const Result& other :
       {generate("run/model_best", {kFrontal, kLateral}),
        run({program("eval"), "--cpu", "--checkpoint=" + dir_ / "run/model_best",
             "--image_dir=" + dir_ / "cxr/images",
             "--ann_path=" + dir_ / "cxr/annotation.json"})}) {
    EXPECT_EQ(other.code, 80);
    EXPECT_THAT(other.err, HasSubstr("model_best/vocabulary.txt: expected the words of the model"));
    EXPECT_THAT(other.err, HasSubstr("model.json"));
  }
  write_file_atomic(dir_ / "run/model_best/vocabulary.txt", words);
  const std::string settings = text("run/model_best/model.json");
  for (const auto& [key, value] : std::map<std::string, nlohmann::json>{{"num_heads", 5},
                                                                        {"d_model", 1e300},
                                                                        {"d_ff", -1},
                                                                        {"visual_extractor", "vgg"},
                                                                        {"model", "lstm"},
                                                                        {"sample_method", 3}}) {
    auto json = nlohmann::json::parse(settings);
    json[key] = value;
    write_file_atomic(dir_ / "run/model_best/model.json", json.dump());
    const Result result = generate("run/model_best", {kFrontal, kLateral});
    EXPECT_EQ(result.code, 80) << key << ": " << result.err;
  }
}

}  // namespace
}  // namespace pinion::report
