// SPDX-License-Identifier: Apache-2.0
// Checkpoints: a resumed run goes on bit by bit; what does not verify or does not fit is refused by
// name; enough good copies stay; one run at a time.
#include "pinion/accel/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint_testing.h"
#include "pinion/accel/checkpoint/manifest.h"
#include "pinion/nn/weights.h"
#include "pinion/runtime/crc32c.h"
#include "pinion/runtime/log.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kSteps = 26;  // four epochs of 7 batches, less 2

std::string contents(const std::string& path) { return read_file(path, 1 << 24); }

void overwrite(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  File file(path, OpenMode::create);
  file.write(bytes);
  file.close();
}

// A run that saves at each of `at`.
void train(const std::string& root, int64_t to, const std::vector<int64_t>& at,
           CheckpointOptions options = {}) {
  options.root = root;
  TinyRun run;
  Checkpoints checkpoints(options);
  run.add_to(checkpoints);
  checkpoints.resume();
  while (run.steps < to) {
    run.step();
    if (std::count(at.begin(), at.end(), run.steps)) checkpoints.save(run.steps);
  }
  checkpoints.close();
}

struct Resumed {
  std::optional<int64_t> step;
  std::string bytes;
};
Resumed resumed(const std::string& root) {
  TinyRun run(99);  // another seed: all that matters comes from the checkpoint
  Checkpoints checkpoints({.root = root});
  run.add_to(checkpoints);
  const std::optional<int64_t> step = checkpoints.resume();
  return {step, run.bytes()};
}

Error refusal(const std::string& root) {
  return error_of([&] { resumed(root); });
}

// Writes the manifest anew after a change, with a checksum that fits.
void edit_manifest(const std::string& directory,
                   const std::function<void(nlohmann::json&)>& change) {
  const std::string path = directory + "/" + kManifestName;
  nlohmann::json manifest = nlohmann::json::parse(contents(path));
  manifest.erase("crc32c");
  change(manifest);
  std::string text = manifest.dump();
  text.pop_back();
  char crc[40];
  std::snprintf(crc, sizeof crc, ",\"crc32c\":\"%08x\"}\n", crc32c(text.data(), text.size()));
  overwrite(path, text + crc);
}

// Replaces a file and what the manifest says of it.
void edit_file(const std::string& directory, const std::string& name, const std::string& bytes) {
  overwrite(directory + "/" + name, bytes);
  edit_manifest(directory, [&](nlohmann::json& m) {
    for (auto& f : m["files"])
      if (f["name"] == name) {
        char crc[9];
        std::snprintf(crc, sizeof crc, "%08x", crc32c(bytes.data(), bytes.size()));
        f["bytes"] = bytes.size();
        f["crc32c"] = crc;
      }
  });
}

TEST(Checkpoint, ResumesBitByBitAtEveryStep) {
  const std::vector<std::string> whole = uninterrupted(kSteps);
  for (int64_t stop = 0; stop <= kSteps; ++stop) {
    const TempDir dir;
    train(dir / "c", stop, {stop});
    TinyRun run(99);
    Checkpoints checkpoints({.root = dir / "c"});
    run.add_to(checkpoints);
    const auto step = checkpoints.resume();
    if (stop == 0) {
      EXPECT_FALSE(step);
      continue;
    }
    ASSERT_EQ(step, stop);
    EXPECT_EQ(checkpoints.last_step(), stop);
    ASSERT_EQ(run.bytes(), whole[static_cast<size_t>(stop)]) << stop;
    while (run.steps < kSteps) run.step();
    ASSERT_EQ(run.bytes(), whole[static_cast<size_t>(kSteps)]) << stop;
  }
}

TEST(Checkpoint, IsADirectoryOfSafetensorsAndJson) {
  const TempDir dir;
  train(dir / "c", 5, {5});
  EXPECT_THAT(list_dir(dir / "c"), ElementsAre(".lock", "step-5"));
  EXPECT_THAT(list_dir(dir / "c/step-5"), ElementsAre("MANIFEST.json", "model.safetensors",
                                                      "shard-0.safetensors", "state-0.json"));
  struct stat status {};
  ASSERT_EQ(stat((dir / "c/step-5").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  ASSERT_EQ(stat((dir / "c/step-5/model.safetensors").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  TinyModel model;
  nn::load_weights(model, dir / "c/step-5/model.safetensors");  // a weight file like any other
}

TEST(Checkpoint, PassesOverWhatIsDamagedAndSaysSo) {
  set_log_level(LogLevel::warn);
  const std::vector<std::string> whole = uninterrupted(9);
  for (const std::string name :
       {"MANIFEST.json", "model.safetensors", "shard-0.safetensors", "state-0.json"}) {
    const TempDir dir;
    train(dir / "c", 9, {3, 6, 9}, {.keep_last = 3});
    const std::string path = dir / "c/step-9/" + name, was = contents(path);
    overwrite(path, was.substr(0, was.size() / 2));
    testing::internal::CaptureStderr();
    const Resumed got = resumed(dir / "c");
    EXPECT_THAT(testing::internal::GetCapturedStderr(),
                AllOf(HasSubstr("warn"), HasSubstr("step-9"), HasSubstr(name)));
    EXPECT_EQ(got.step, 6);
    EXPECT_EQ(got.bytes, whole[6]);
    TinyRun run;
    Checkpoints checkpoints({.root = dir / "c"});
    run.add_to(checkpoints);
    const Error error = error_of([&] { checkpoints.load(dir / "c/step-9"); });
    EXPECT_EQ(error.exit_code(), 80);
    EXPECT_THAT(error.what(), HasSubstr(name));
    EXPECT_EQ(checkpoints.load(dir / "c/step-3/"), 3);
    EXPECT_EQ(run.bytes(), whole[3]);
  }
  set_log_level(LogLevel::error);
}

TEST(Checkpoint, WithNothingThatVerifiesIsAnError) {
  set_log_level(LogLevel::error);
  const TempDir dir;
  train(dir / "c", 4, {2, 4});
  for (const char* step : {"step-2", "step-4"})
    std::filesystem::remove(dir / "c/" + step + "/state-0.json");
  const Error error = refusal(dir / "c");
  EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("step-2"), HasSubstr("step-4")));
  EXPECT_EQ(error_of([&] {
              Checkpoints c({.root = dir / "c"});
              c.load(dir / "c/step-77");
            }).exit_code(),
            80);
}

TEST(Checkpoint, EveryFieldOfTheManifestMustBeThere) {
  const TempDir dir;
  train(dir / "c", 4, {4});
  const std::string where = dir / "c/step-4", path = where + "/" + kManifestName;
  const std::string good = contents(path);
  const nlohmann::json fields = nlohmann::json::parse(good);
  const auto check = [&](const std::string& name, const std::function<void(nlohmann::json&)>& f) {
    edit_manifest(where, f);
    const Error error = refusal(dir / "c");
    EXPECT_EQ(error.kind(), ErrorKind::checkpoint) << name;
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'" + name + "'"), HasSubstr(kManifestName)));
    overwrite(path, good);
  };
  set_log_level(LogLevel::error);
  int checked = 0;
  for (const auto& [name, value] : fields.items()) {
    if (name == "crc32c") continue;
    check(name, [&](nlohmann::json& m) { m.erase(name); });
    check(name, [&](nlohmann::json& m) { m[name] = nullptr; });
    ++checked;
  }
  for (const char* list : {"files", "parts", "tensors"})
    for (const auto& [name, value] : fields[list][0].items()) {
      check(name, [&](nlohmann::json& m) { m[list][0].erase(name); });
      check(name, [&](nlohmann::json& m) { m[list][0][name] = nlohmann::json::object(); });
      ++checked;
    }
  EXPECT_EQ(checked, 10 + 3 + 3 + 8);
  EXPECT_EQ(resumed(dir / "c").step, 4);
}

TEST(Checkpoint, EveryPieceOfStateMustBeThere) {
  set_log_level(LogLevel::error);
  const TempDir dir;
  train(dir / "c", 4, {4});
  const std::string where = dir / "c/step-4";
  const std::string state = contents(where + "/state-0.json"),
                    manifest = contents(where + "/" + kManifestName);
  const auto all = nlohmann::json::parse(state);
  int checked = 0;
  const auto check = [&](const std::string& name, const char* what) {
    const Error error = refusal(dir / "c");
    EXPECT_EQ(error.exit_code(), 80) << name;
    EXPECT_THAT(error.what(), AllOf(HasSubstr("'" + name + "'"), HasSubstr(what)));
    overwrite(where + "/state-0.json", state);
    overwrite(where + "/" + kManifestName, manifest);
    ++checked;
  };
  for (const auto& [part, values] : all.items())
    for (const auto& [name, value] : values.items()) {
      auto less = all;
      less[part].erase(name);
      edit_file(where, "state-0.json", less.dump());
      check(part + "." + name, "missing");
      auto more = all;
      more[part]["surplus"] = 1;
      edit_file(where, "state-0.json", more.dump());
      if (part == "gradients") {  // open: takes what there is
        overwrite(where + "/state-0.json", state);
        overwrite(where + "/" + kManifestName, manifest);
      } else {
        check(part + ".surplus", "not expected");
      }
    }
  const size_t tensors = nlohmann::json::parse(manifest)["tensors"].size();
  for (size_t i = 0; i < tensors; ++i) {
    std::string name;
    edit_manifest(where, [&](nlohmann::json& m) {
      name = m["tensors"][i]["part"].get<std::string>() + "." +
             m["tensors"][i]["name"].get<std::string>();
      m["tensors"].erase(i);
    });
    if (name.starts_with("gradients.")) {
      overwrite(where + "/" + kManifestName, manifest);
      continue;
    }
    check(name, "missing");
  }
  const nlohmann::json parsed = nlohmann::json::parse(manifest);
  for (const auto& part : parsed["parts"]) {
    const std::string name = part["name"];
    edit_manifest(where, [&](nlohmann::json& m) {
      const auto belongs = [&](const nlohmann::json& t) {
        return t.value("part", t.value("name", "")) == name;
      };
      for (const char* list : {"parts", "tensors"})
        for (size_t i = m[list].size(); i-- > 0;)
          if (belongs(m[list][i])) m[list].erase(i);
    });
    check(name, "missing");
  }
  EXPECT_EQ(checked, 13 + 12 + 21 + 8);  // values, surplus ones, tensors, parts
  EXPECT_EQ(resumed(dir / "c").step, 4);
}

TEST(Checkpoint, NamesInTheManifestStayInItsDirectory) {
  set_log_level(LogLevel::error);
  const TempDir dir;
  train(dir / "c", 4, {4});
  const std::string where = dir / "c/step-4";
  const std::string model = contents(where + "/model.safetensors");
  overwrite(dir / "c/outside", model);
  const std::string good = contents(where + "/" + kManifestName);
  for (const std::string& name :
       {std::string("../outside"), dir / "c/outside", std::string("a/b"), std::string(".."),
        std::string("."), std::string(""), std::string("x\0y", 3), std::string(".hidden"),
        std::string("model.safetensors\n"), std::string(300, 'x')}) {
    edit_manifest(where, [&](nlohmann::json& m) {
      for (const char* list : {"files", "tensors"})
        for (auto& entry : m[list]) {
          auto& field = entry[list == std::string("files") ? "name" : "file"];
          if (field == "model.safetensors") field = name;
        }
    });
    FaultyFs recorded;
    Error error(ErrorKind::internal, "");
    {
      const FsGuard guard(recorded);
      error = error_of([&] { resumed(dir / "c"); });
    }
    EXPECT_EQ(error.exit_code(), 80);
    EXPECT_THAT(error.what(), HasSubstr("plain name"));
    for (const auto& call : recorded.calls())
      EXPECT_THAT(call.path, testing::Not(HasSubstr("outside")));
    overwrite(where + "/" + kManifestName, good);
  }
  // A link in the place of a file is not followed, though what it leads to would fit.
  std::filesystem::remove(where + "/model.safetensors");
  std::filesystem::create_symlink("../outside", where + "/model.safetensors");
  EXPECT_THAT(refusal(dir / "c").what(), HasSubstr("symbolic link"));
  std::filesystem::remove(where + "/model.safetensors");
  ASSERT_EQ(mkfifo((where + "/model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(refusal(dir / "c").what(), HasSubstr("FIFO"));
}

TEST(Checkpoint, WhatAnotherVersionWroteIsNotPassedOver) {
  set_log_level(LogLevel::error);
  const TempDir dir;
  train(dir / "c", 4, {2, 4});
  edit_manifest(dir / "c/step-4", [](nlohmann::json& m) { m["version"] = 2; });
  EXPECT_THAT(refusal(dir / "c").what(), AllOf(HasSubstr("version"), HasSubstr("got 2")));
}

TEST(Checkpoint, ManifestsThatContradictThemselvesAreRefused) {
  set_log_level(LogLevel::error);
  const TempDir dir;
  train(dir / "c", 4, {4});
  const std::string where = dir / "c/step-4", good = contents(where + "/" + kManifestName);
  using Json = nlohmann::json;
  const std::vector<std::pair<std::function<void(Json&)>, const char*>> table = {
      {[](Json& m) { m["step"] = 5; }, "holds step 5"},
      {[](Json& m) { m["step"] = -1; }, "'step'"},
      {[](Json& m) { m["step"] = 1.5; }, "'step'"},
      {[](Json& m) { m["world_size"] = 2; }, "state-1.json"},
      {[](Json& m) { m["world_size"] = 0; }, "'world_size'"},
      {[](Json& m) { m["format"] = "other"; }, "'format'"},
      {[](Json& m) { m["files"].push_back(m["files"][0]); }, "listed twice"},
      {[](Json& m) { m["parts"].push_back(m["parts"][0]); }, "listed twice"},
      {[](Json& m) { m["files"][0]["bytes"] = 1; }, "expected 1 bytes"},
      {[](Json& m) { m["files"][0]["crc32c"] = "00000000"; }, "checksum"},
      {[](Json& m) { m["files"][0]["crc32c"] = "0000000G"; }, "'crc32c'"},
      {[](Json& m) { m["files"].erase(0); }, "which is not listed"},
      {[](Json& m) { m["tensors"][0]["part"] = "nobody"; }, "not listed"},
      {[](Json& m) { m["tensors"][0]["rank"] = 1; }, "rank 1 of 1"},
      {[](Json& m) { m["tensors"][0]["offset"] = 1; }, "tensors"},
      {[](Json& m) { m["tensors"][0]["count"] = 1; }, "elements, got 1"},
      {[](Json& m) {
         m["tensors"][0]["shape"] = {1ull << 40, 1ull << 40};
       },
       "'shape'"},
      {[](Json& m) { m["tensors"][0]["shape"] = {-1}; }, "'shape'"},
      {[](Json& m) { m["tensors"][0]["shape"] = {1, 1, 1, 1, 1, 1, 1, 8}; }, "'shape'"},
      {[](Json& m) { m["tensors"].push_back(m["tensors"][0]); }, "two tensors"},
      {[](Json& m) { m["tensors"][0]["key"] = "elsewhere"; }, "elsewhere"},
      {[](Json& m) { m["parts"][0]["placement"] = "anywhere"; }, "'placement'"},
      {[](Json& m) { m["parts"][0]["placement"] = "per_rank"; }, "another placement"},
      {[](Json& m) { m["config"] = 3; }, "'config'"},
  };
  for (const auto& [change, text] : table) {
    edit_manifest(where, change);
    const Error error = refusal(dir / "c");
    EXPECT_EQ(error.exit_code(), 80) << text;
    EXPECT_THAT(error.what(), HasSubstr(text));
    overwrite(where + "/" + kManifestName, good);
  }
}

TEST(Checkpoint, AnotherConfigurationIsRefusedWithTheDifference) {
  const TempDir dir;
  train(dir / "c", 4, {4}, {.config = R"({"lr":0.1,"model":{"width":8,"heads":2},"name":"a"})"});
  const auto try_with = [&](const std::string& config, const std::vector<std::string>& allowed) {
    return error_of([&] {
      TinyRun run;
      Checkpoints checkpoints(
          {.root = dir / "c", .config = config, .allow_config_change = allowed});
      run.add_to(checkpoints);
      checkpoints.resume();
    });
  };
  const std::string changed = R"({"lr":0.2,"model":{"width":8,"heads":4},"batch":3,"name":"a"})";
  const Error error = try_with(changed, {});
  EXPECT_EQ(error.exit_code(), 80);
  EXPECT_THAT(error.what(),
              AllOf(HasSubstr("3 values"), HasSubstr("lr: 0.1 there, 0.2 here"),
                    HasSubstr("model/heads: 2 there, 4 here"),
                    HasSubstr("batch: nothing there, 3 here"), testing::Not(HasSubstr("width"))));
  EXPECT_THAT(try_with(changed, {"lr", "batch"}).what(), HasSubstr("1 value that"));
  EXPECT_THAT(try_with(changed, {"lr", "batch", "model"}).what(), HasSubstr("no error was thrown"));
  EXPECT_THAT(try_with("{}", {"*"}).what(), HasSubstr("no error was thrown"));
  EXPECT_EQ(try_with("[1]", {}).kind(), ErrorKind::config);
}

TEST(Checkpoint, AnotherModelIsRefusedByTheNameOfTheTensor) {
  const TempDir dir;
  train(dir / "c", 4, {4});
  struct Wide : nn::Module {
    nn::Linear fc1{4, 9}, fc2{9, 2};
    nn::Dropout dropout{0.3};
    void fields(nn::Fields& f) override {
      f("fc1", fc1);
      f("fc2", fc2);
      f("dropout", dropout);
    }
  } wide;
  ModelPart part(wide);
  Checkpoints checkpoints({.root = dir / "c"});
  checkpoints.add("model", part, {.weights = true});
  EXPECT_THAT(error_of([&] { checkpoints.resume(); }).what(), HasSubstr("is not expected"));
  for (const char* name :
       {"optimizer", "gradients", "scheduler", "scaler", "sampler", "random", "counters"}) {
    static FunctionPart any([] { return State{.open = true}; }, [](const State&) {});
    checkpoints.add(name, any,
                    {.placement = name == std::string("gradients") ? Placement::per_rank
                                                                   : Placement::replicated});
  }
  EXPECT_THAT(error_of([&] { checkpoints.resume(); }).what(),
              AllOf(HasSubstr("model.fc1.weight"), HasSubstr("[9,4]"), HasSubstr("[8,4]")));
}

TEST(Checkpoint, KeepsAsManyGoodOnesAsAsked) {
  set_log_level(LogLevel::error);
  {
    const TempDir dir;
    train(dir / "c", 12, {2, 4, 6, 8, 10, 12}, {.keep_last = 2, .keep_every = 4});
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{12, 10, 8, 4}));
  }
  {  // a damaged one does not count
    const TempDir dir;
    train(dir / "c", 6, {2, 4, 6}, {.keep_last = 3});
    overwrite(dir / "c/step-6/state-0.json", "{}");
    train(dir / "c", 8, {8}, {.keep_last = 2});
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{8, 6, 4}));
    train(dir / "c", 10, {10}, {.keep_last = 2});
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{10, 8}));
  }
  {  // the best one stays until a better one comes
    const TempDir dir;
    TinyRun run;
    Checkpoints checkpoints({.root = dir / "c", .keep_last = 1});
    run.add_to(checkpoints);
    for (const int64_t step : {1, 2, 3, 4}) checkpoints.save(step, step == 2);
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{4, 2}));
    checkpoints.save(5, true);
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{5}));
    checkpoints.close();
  }
  {  // what is newer than the step just saved is left alone, and the one just saved stays
    const TempDir dir;
    train(dir / "c", 8, {8});
    TinyRun run;
    Checkpoints checkpoints({.root = dir / "c", .keep_last = 1});
    run.add_to(checkpoints);
    checkpoints.save(3);
    checkpoints.save(4);
    EXPECT_EQ(checkpoint_steps(dir / "c"), (std::vector<int64_t>{8, 4}));
  }
  EXPECT_THAT(error_of([] { Checkpoints({.root = "/tmp/x", .keep_last = 0}); }).what(),
              HasSubstr("keep_last"));
}

TEST(Checkpoint, TheSameStepCanBeSavedAgain) {
  const TempDir dir;
  TinyRun run;
  Checkpoints checkpoints({.root = dir / "c"});
  run.add_to(checkpoints);
  checkpoints.save(1);
  run.step();
  checkpoints.save(1);
  const std::string bytes = run.bytes();
  EXPECT_THAT(list_dir(dir / "c"), ElementsAre(".lock", "step-1"));
  checkpoints.close();
  EXPECT_EQ(resumed(dir / "c").bytes, bytes);
}

TEST(Checkpoint, ASecondRunOnTheDirectoryIsRefused) {
  const TempDir dir;
  auto first = std::make_unique<Checkpoints>(CheckpointOptions{.root = dir / "c"});
  const auto second = [&] { Checkpoints again({.root = dir / "c"}); };
  const Error error = error_of(second);
  EXPECT_EQ(error.exit_code(), 80);
  EXPECT_THAT(error.what(), HasSubstr("in use by process " + std::to_string(getpid())));
  first->close();
  second();
  first = std::make_unique<Checkpoints>(CheckpointOptions{.root = dir / "c"});
  EXPECT_THAT(error_of(second).what(), HasSubstr("in use"));
  first.reset();
  second();
}

TEST(Checkpoint, WhatKilledRunsLeftIsRemoved) {
  const TempDir dir;
  train(dir / "c", 4, {4});
  for (const char* name : {".tmp-5-x", ".trash-1-y"}) {
    make_dirs(dir / "c/" + name);
    overwrite(dir / "c/" + name + "/shard-0.safetensors", "half");
  }
  make_dirs(dir / "c/step-007");  // no name of ours: neither used nor removed
  train(dir / "c", 4, {});
  EXPECT_THAT(list_dir(dir / "c"), ElementsAre(".lock", "step-007", "step-4"));
}

TEST(Checkpoint, OptionalPartsMayComeAndGo) {
  const TempDir dir;
  State two;
  two.put("n", 2);
  FunctionPart always([&] { return two; }, [](const State& s) { EXPECT_EQ(s.integer("n"), 2); });
  struct Fresh final : Checkpointable {
    State state() override { return {}; }
    void load_state(const State&) override { ++loaded; }
    void start_fresh() override { ++fresh; }
    int loaded = 0, fresh = 0;
  } extra;
  {
    Checkpoints checkpoints({.root = dir / "c"});
    checkpoints.add("always", always);
    EXPECT_FALSE(checkpoints.resume());
    checkpoints.save(1);
  }
  {
    Checkpoints checkpoints({.root = dir / "c"});
    checkpoints.add("always", always);
    checkpoints.add("extra", extra, {.optional = true});
    EXPECT_EQ(checkpoints.resume(), 1);
    EXPECT_EQ(extra.fresh, 1);
    checkpoints.save(2);
    EXPECT_EQ(checkpoints.resume(), 2);
    EXPECT_EQ(extra.loaded, 1);
  }
  Checkpoints checkpoints({.root = dir / "c"});
  checkpoints.add("always", always);
  EXPECT_EQ(checkpoints.resume(), 2);
}

TEST(Checkpoint, NumbersOfEveryKindComeBackTheSame) {
  const TempDir dir;
  constexpr double kInf = std::numeric_limits<double>::infinity();
  State out;
  out.put("yes", true);
  out.put("least", std::numeric_limits<int64_t>::min());
  out.put("most", std::numeric_limits<uint64_t>::max());
  out.put("third", 1.0 / 3);
  out.put("one", 1.0);
  out.put("tiny", -5e-324);
  out.put("inf", -kInf);
  out.put("nan", std::nan(""));
  out.put("text", "a \"b\"\n größe");
  int loaded = 0;
  FunctionPart part([&] { return out; },
                    [&](const State& in) {
                      ++loaded;
                      EXPECT_TRUE(in.boolean("yes"));
                      EXPECT_EQ(in.integer("least"), std::numeric_limits<int64_t>::min());
                      EXPECT_EQ(in.natural("most"), std::numeric_limits<uint64_t>::max());
                      EXPECT_EQ(in.real("third"), 1.0 / 3);
                      EXPECT_EQ(in.real("one"), 1);
                      EXPECT_EQ(in.real("tiny"), -5e-324);
                      EXPECT_EQ(in.real("inf"), -kInf);
                      EXPECT_TRUE(std::isnan(in.real("nan")));
                      EXPECT_EQ(in.text("text"), "a \"b\"\n größe");
                      EXPECT_THAT(error_of([&] { (void)in.integer("most"); }).what(),
                                  HasSubstr("'it.most' should be an integer"));
                      EXPECT_THAT(error_of([&] { (void)in.natural("least"); }).what(),
                                  HasSubstr("'it.least'"));
                      EXPECT_THAT(error_of([&] { (void)in.real("none"); }).what(),
                                  HasSubstr("'it.none' is missing"));
                    });
  Checkpoints checkpoints({.root = dir / "c"});
  checkpoints.add("it", part);
  checkpoints.save(0);
  EXPECT_EQ(checkpoints.resume(), 0);
  EXPECT_EQ(loaded, 1);
}

}  // namespace
}  // namespace pinion::accel
