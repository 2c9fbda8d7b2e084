// SPDX-License-Identifier: Apache-2.0
// simple_train as its users meet it: the built program, run.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "pinion/apps/toy/synthetic.h"
#include "pinion/nn/init.h"
#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/fs_testing.h"
#include "pinion/tests/support/paths.h"

extern char** environ;

namespace pinion::toy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

std::string contents(const std::string& path) { return read_file(path, int64_t{1} << 26); }

class ToyTest : public testing::Test {
 protected:
  struct Result {
    int code = -1;  // 128 + n for signal n
    std::string out, err;
  };

  // Runs simple_train with --output_dir in the test's folder, unless the arguments have their own.
  Result run(std::vector<std::string> arguments) const {
    const bool has_dir = !arguments.empty() && arguments[0].starts_with("--output_dir");
    if (!has_dir) arguments.push_back("--output_dir=" + dir_ / "run");
    arguments.insert(arguments.begin(), in_build("simple_train"));
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    const std::string out = dir_ / "stdout", err = dir_ / "stderr";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t child = 0;
    const int failed = posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    EXPECT_EQ(failed, 0) << argv[0];
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(out),
            contents(err)};
  }

  std::string write(const std::string& name, const std::string& text) const {
    write_file_atomic(dir_ / name, text);
    return dir_ / name;
  }

  std::vector<nlohmann::json> metrics() const {
    std::vector<nlohmann::json> lines;
    const std::string text = contents(dir_ / "run/metrics.jsonl");
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      lines.push_back(nlohmann::json::parse(text.substr(at, end - at)));
      at = end + 1;
    }
    return lines;
  }

  // Two clouds that a line divides, with a text label.
  static std::string clouds(int rows, int64_t seed) {
    std::string text = "height,width,noise,kind\n";
    Tensor z({rows, 3});
    manual_seed(static_cast<uint64_t>(seed));
    nn::init::normal(z);
    const std::vector<float> v = z.values<float>();
    for (size_t i = 0; i < static_cast<size_t>(rows); ++i) {
      const float shift = i % 2 ? 3 : -3;
      text += std::to_string(170 + 10 * (v[3 * i] + shift)) + "," +
              std::to_string(1e-3 * static_cast<double>(v[3 * i + 1] - shift)) + "," +
              std::to_string(v[3 * i + 2]) + (i % 2 ? ",tall\n" : ",flat\n");
    }
    return text;
  }

  TempDir dir_;
};

TEST(Synthetic, LabelsAreTheSignButForAnExactShare) {
  for (const double noise : {0.0, 0.1, 1.0}) {
    const auto data = make_synthetic({.noise = noise, .seed = 3});
    EXPECT_EQ(data.features().shape(), (Shape{1000, 10}));
    const auto x = data.features().values<float>();
    const auto y = data.labels().values<int64_t>();
    int64_t wrong = 0;
    for (size_t i = 0; i < y.size(); ++i) wrong += y[i] != (x[10 * i] + x[10 * i + 1] > 0 ? 1 : 0);
    EXPECT_EQ(wrong, std::llround(noise * 1000));
  }
}

TEST(Synthetic, FeaturesAreStandardNormalAndDependOnTheSeed) {
  const auto x = make_synthetic({.samples = 20000, .seed = 1}).features().values<float>();
  double sum = 0, squares = 0;
  for (const float v : x) sum += v, squares += double{v} * v;
  const auto n = static_cast<double>(x.size());
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(squares / n, 1, 0.02);
  EXPECT_EQ(make_synthetic({.seed = 5}).features().values<float>(),
            make_synthetic({.seed = 5}).features().values<float>());
  EXPECT_NE(make_synthetic({.seed = 5}).features().values<float>(),
            make_synthetic({.seed = 6}).features().values<float>());
}

// PyTorch over 20 seeds: loss .498, running accuracy 83.1 % in the fifth epoch.
TEST_F(ToyTest, TwentySeedsLearnAsPyTorchDoes) {
  for (const char* engine : {"autograd", "fused"}) {
    SCOPED_TRACE(engine);
    double loss = 0, accuracy = 0;
    for (int seed = 0; seed < 20; ++seed) {
      ASSERT_EQ(run({"--seed", std::to_string(seed), "--engine", engine}).code, 0);
      const auto lines = metrics();
      ASSERT_EQ(lines.size(), 5u);
      loss += lines[4]["loss"].get<double>() / 20;
      accuracy += lines[4]["accuracy"].get<double>() / 20;
    }
    EXPECT_NEAR(loss, 0.498, 0.02);
    EXPECT_NEAR(accuracy, 0.831, 0.015);
  }
}

TEST_F(ToyTest, TheFusedEngineLeavesWhatTheOtherLeaves) {
  const auto figures = [&](std::vector<std::string> arguments) {
    const Result r = run(std::move(arguments));
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_THAT(r.out, testing::StartsWith("Epoch 1/200, Loss: 0."));
    EXPECT_EQ(metrics().size(), 200u);
    EXPECT_THAT(contents(dir_ / "run/report.html"), HasSubstr("418 parameters"));
    return metrics().back();
  };
  // With a whole epoch in a batch the order of samples does not matter, and both see the same.
  const std::vector<std::string> common = {"--epochs=200", "--batch_size=1000", "--samples=300"};
  for (const char* optimizer : {"--optimizer=adam", "--optimizer=adamw"}) {
    std::vector<std::string> arguments = common;
    arguments.insert(arguments.end(), {optimizer, "--weight_decay=0.1"});
    const auto autograd = figures(arguments);
    const auto autograd_model = load_safetensors(dir_ / "run/model.safetensors");
    arguments.emplace_back("--engine=fused");
    const auto fused = figures(arguments);
    EXPECT_NEAR(fused["loss"], autograd["loss"], 1e-4);
    EXPECT_NEAR(fused["accuracy"], autograd["accuracy"], 0.004);
    const auto fused_model = load_safetensors(dir_ / "run/model.safetensors");
    EXPECT_EQ(fused_model.metadata, autograd_model.metadata);
    EXPECT_EQ(fused_model.tensors.size(), autograd_model.tensors.size());
  }
}

TEST_F(ToyTest, LeavesMetricsReportAndModel) {
  const Result r = run({});
  ASSERT_EQ(r.code, 0);
  EXPECT_EQ(r.err, "");
  EXPECT_THAT(r.out, testing::StartsWith("Epoch 1/5, Loss: 0."));
  EXPECT_THAT(list_dir(dir_ / "run"),
              ElementsAre("metrics.jsonl", "model.safetensors", "report.html"));
  const auto lines = metrics();
  for (size_t e = 0; e < lines.size(); ++e) {
    EXPECT_EQ(lines[e]["epoch"], e + 1);
    EXPECT_GT(lines[e]["accuracy"], 0.4);
    EXPECT_LE(lines[e]["accuracy"], 1.0);
  }
  const std::string html = contents(dir_ / "run/report.html");
  EXPECT_THAT(html, HasSubstr("418 parameters"));
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_EQ(html.find("://"), html.npos);
  const auto model = load_safetensors(dir_ / "run/model.safetensors");
  std::vector<std::string> names;
  int64_t parameters = 0;
  for (const auto& [name, tensor] : model.tensors)
    names.push_back(name), parameters += tensor.numel();
  EXPECT_THAT(names, UnorderedElementsAre("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"));
  EXPECT_EQ(parameters, 418);
  EXPECT_EQ(model.metadata.at("format"), "pt");
  const auto facts = nlohmann::json::parse(model.metadata.at("simple_train"));
  EXPECT_EQ(facts["columns"].size(), 10u);
  EXPECT_EQ(facts["mean"][9], 0.0);
}

TEST_F(ToyTest, TheSameSeedGivesTheSameRun) {
  const auto once = [&](std::vector<std::string> arguments) {
    EXPECT_EQ(run(std::move(arguments)).code, 0);
    return contents(dir_ / "run/metrics.jsonl") + contents(dir_ / "run/model.safetensors");
  };
  const std::string first = once({"--seed=4"});
  EXPECT_EQ(once({"--seed=4"}), first);
  EXPECT_EQ(once({"--seed=4", "--workers=2"}), first);
  EXPECT_NE(once({"--seed=5"}), first);
}

TEST_F(ToyTest, EveryNumberIsAFlagInEitherSpelling) {
  const Result r =
      run({"--samples", "77", "--features=4", "--hidden=3", "--epochs=2", "--batch-size=10",
           "--lr=0.01", "--noise=0", "--optimizer=sgd", "--momentum=0.9", "--weight-decay=0.1"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(metrics().size(), 2u);
  const std::string html = contents(dir_ / "run/report.html");
  EXPECT_THAT(html, HasSubstr("77 samples, 23 parameters"));
  EXPECT_THAT(html, HasSubstr("momentum"));
  for (const char* optimizer : {"adam", "adamw"})
    EXPECT_EQ(run({"--optimizer", optimizer, "--batch_size", "16"}).code, 0);
}

TEST_F(ToyTest, TrainsInMixedPrecision) {
  for (const char* precision : {"bf16", "fp16"}) {
    SCOPED_TRACE(precision);
    const Result r = run({"--mixed_precision", precision, "--lr", "0.01"});
    ASSERT_EQ(r.code, 0) << r.err;
    EXPECT_GT(metrics().back()["accuracy"], 0.8);
  }
}

TEST_F(ToyTest, TrainsOnATableAndAppliesTheModel) {
  const std::string csv = write("clouds.csv", clouds(200, 1));
  const Result trained = run({"--data", csv, "--label", "kind", "--epochs=20", "--lr=0.01"});
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_THAT(trained.out, HasSubstr("160 rows to train on, 40 held out, 3 features, 2 classes"));
  EXPECT_THAT(trained.out, HasSubstr("Held-out accuracy: 100.00% of 40 rows"));
  EXPECT_THAT(trained.out, HasSubstr("true \\ predicted  flat  tall"));
  EXPECT_THAT(contents(dir_ / "run/report.html"), HasSubstr("Confusion matrix"));

  const std::string model = dir_ / "run/model.safetensors";
  const std::string fresh = write("new.csv", clouds(50, 2));
  const Result applied = run({"--predict", model, "--data", fresh});
  ASSERT_EQ(applied.code, 0) << applied.err;
  EXPECT_THAT(applied.out, testing::StartsWith("prediction,p(flat),p(tall)\nflat,"));
  EXPECT_EQ(std::count(applied.out.begin(), applied.out.end(), '\n'), 51);
  EXPECT_THAT(applied.err, HasSubstr("Accuracy: 100.00% of 50 rows"));

  const Result to_file = run({"--predict", model, "--data", fresh, "--output", dir_ / "p.csv"});
  EXPECT_EQ(to_file.code, 0);
  EXPECT_EQ(to_file.out, "");
  EXPECT_EQ(contents(dir_ / "p.csv"), applied.out);

  const Result other = run({"--predict", model, "--data", write("o.csv", "height,depth\n1,2\n")});
  EXPECT_EQ(other.code, 65);
  EXPECT_THAT(
      other.err,
      HasSubstr("got none called 'width', 'noise'; the model has no column called 'depth'"));
}

TEST_F(ToyTest, HelpIsNoError) {
  const Result r = run({"--help"});
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, HasSubstr("--batch_size INT=32"));
  EXPECT_FALSE(exists(dir_ / "run"));
}

TEST_F(ToyTest, WrongFlagsEndWith64AndOneLine) {
  const std::vector<std::vector<std::string>> wrong = {
      {"--frobnicate"},
      {"--epochs"},
      {"--epochs=0"},
      {"--epochs=many"},
      {"--batch_size=-3"},
      {"--lr=nan"},
      {"--lr=-1"},
      {"--noise=1.5"},
      {"--features=1"},
      {"--samples=0"},
      {"--optimizer=magic"},
      {"--mixed_precision=fp8"},
      {"--engine=steam"},
      {"--engine=fused", "--optimizer=sgd"},
      {"--engine=fused", "--mixed_precision=bf16"},
      {"--engine=fused", "--workers=2"},
      {"--device=toaster"},
      {"--seed=-1"},
      {"stray"},
      {"--label=y"},
      {"--data=x.csv"},
      {"--predict=m.safetensors"},
      {"--momentum=0.9"},
      {"--header=perhaps"},
      {"--output=p.csv"},
      {"--samples=99999999999999999999"},
  };
  for (const auto& arguments : wrong) {
    SCOPED_TRACE(arguments[0]);
    const Result r = run(arguments);
    EXPECT_EQ(r.code, 64) << r.err;
    EXPECT_THAT(r.err, testing::StartsWith("simple_train: "));
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_EQ(r.out, "");
    EXPECT_FALSE(exists(dir_ / "run"));
  }
}

TEST_F(ToyTest, BadTablesLeaveNothingBehind) {
  struct Case {
    std::string path, message;
    int code;
  };
  const std::vector<Case> cases = {
      {dir_ / "absent.csv", "absent.csv", 66},
      {dir_.path(), dir_.path(), 65},
      {write("missing.csv", "a,y\n1,p\n,q\n"), "missing.csv:3:1: column 'a'", 65},
      {write("one.csv", "a,y\n1,p\n2,p\n"), "at least two classes", 65},
      {write("empty.csv", ""), "an empty file", 65},
      {write("long.csv", std::string(10 << 20, 'x')), "long.csv:1:1: expected lines of at most",
       65},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.path);
    const Result r = run({"--data", c.path, "--label", "y"});
    EXPECT_EQ(r.code, c.code);
    EXPECT_THAT(r.err, testing::StartsWith("simple_train: "));
    EXPECT_THAT(r.err, HasSubstr(c.message));
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_FALSE(exists(dir_ / "run"));
  }
}

TEST_F(ToyTest, RefusesModelsThatAreNotItsOwn) {
  const std::string csv = write("t.csv", "a,b\n1,2\n");
  EXPECT_EQ(run({"--predict", dir_ / "absent.safetensors", "--data", csv}).code, 66);
  EXPECT_EQ(run({"--predict", write("m", "not a model at all"), "--data", csv}).code, 65);
  const std::vector<NamedTensor> tensors = {{"w", Tensor::zeros({1})}};
  save_safetensors(dir_ / "other.safetensors", tensors);
  EXPECT_EQ(run({"--predict", dir_ / "other.safetensors", "--data", csv}).code, 80);
}

TEST_F(ToyTest, SaysWhenItCannotWrite) {
  const std::string file = write("file", "");
  const Result r = run({"--output_dir=" + file + "/below"});
  EXPECT_EQ(r.code, 74) << r.err;
  EXPECT_THAT(r.err, HasSubstr("below"));
  EXPECT_EQ(r.out, "");  // before any training
}

TEST_F(ToyTest, ADivergedRunIsAnErrorAndKeepsTheOldModel) {
  ASSERT_EQ(run({}).code, 0);
  const std::string model = contents(dir_ / "run/model.safetensors");
  const Result r = run({"--optimizer=sgd", "--lr=1000000", "--epochs=3"});
  EXPECT_EQ(r.code, 79) << r.err;
  EXPECT_THAT(r.err, HasSubstr("finite loss"));
  EXPECT_EQ(contents(dir_ / "run/model.safetensors"), model);
}

}  // namespace
}  // namespace pinion::toy
