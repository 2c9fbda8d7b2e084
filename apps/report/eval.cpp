// SPDX-License-Identifier: Apache-2.0
// eval: how good a trained model's reports of a split are, beside figures that need no image; on
// any number of ranks.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "pinion/apps/common/flag_checks.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/report/decoding_flags.h"
#include "pinion/apps/report/examination.h"
#include "pinion/apps/report/memory_advice.h"
#include "pinion/runtime/fs.h"

namespace pinion::report {

namespace {

struct EvalOptions {
  std::string checkpoint, image_dir = "data/cxr/images", ann_path = "data/cxr/annotation.json";
  std::string output;
  Split split = Split::test;
  int64_t batch_size = 16, workers = 2;
  bool cpu = false;
  std::string device = "auto";
  DecodingFlags decoding;
};

std::string json_of(const Examiner::Result& result, const StudyBatches& studies) {
  nlohmann::ordered_json json;
  for (const auto& [row, figures] : result.controls.table) {
    for (const auto& [name, value] : figures.values) json["figures"][row][name] = value;
    for (size_t a = 0; figures.findings && a < kAttributes; ++a) {
      const FindingScores::Counts& counts = figures.findings->by_attribute[a];
      json["findings"][row][attribute_table()[a].name] = {
          {"precision", counts.precision()}, {"recall", counts.recall()}, {"F1", counts.f1()}};
    }
  }
  for (size_t i = 0; i < result.pairs.size(); ++i)
    json["reports"].push_back({{"id", studies.studies()[i].id},
                               {"true", result.pairs[i].references.front()},
                               {"written", result.pairs[i].hypothesis}});
  return json.dump(1) + "\n";
}

int evaluate(const EvalOptions& o, const CLI::App& app) {
  accel::Accelerator accelerator({.cpu = o.cpu, .device = o.device, .even_batches = false});
  const TrainedModel trained = load_model(o.checkpoint);
  ModelSettings settings = trained.settings;
  settings.decoding = o.decoding.over(settings.decoding, app, *trained.tokenizer);
  trained.model->to(accelerator.device());
  const auto set = std::make_shared<const StudySet>(
      load_studies(o.ann_path, o.image_dir,
                   settings.views == 2 ? DatasetName::iu_xray : DatasetName::mimic_cxr));
  const auto batches = [&](Split split) {
    return StudyBatches(set, split, trained.tokenizer, settings.image_form(),
                        settings.decoding.max_length);
  };
  const StudyBatches studies = batches(o.split);
  PINION_REQUIRE(data, studies.size() > 0, o.ann_path, ": expected studies in the split ",
                 name_of(o.split), ", got none");
  accel::DataLoader plain(studies,
                          {.batch_size = o.batch_size, .workers = static_cast<int>(o.workers)});
  const auto loader = accelerator.prepare(plain);
  const Examiner examiner(accelerator, *trained.model, settings, *trained.tokenizer);
  const Examiner::Result result = examiner.examine(loader, batches(Split::train), o.ann_path);
  accelerator.on_main_process([&] {
    apps::print(fmt::format("{} studies of the split {}\n{}{}", studies.size(), name_of(o.split),
                            text_of(result.controls.table), result.looks));
    if (!o.output.empty()) write_file_atomic(o.output, json_of(result, studies));
  });
  return 0;
}

int run(int argc, char** argv) {
  EvalOptions o;
  std::string split = "test";
  CLI::App app("Evaluates a trained model on a split of a set.");
  app.add_option("--checkpoint", o.checkpoint, "folder of a trained model: SAVE_DIR/model_best")
      ->required();
  app.add_option("--image_dir", o.image_dir, "folder of the images")->capture_default_str();
  app.add_option("--ann_path", o.ann_path, "annotation.json")->capture_default_str();
  app.add_option("--split", split)
      ->check(CLI::IsMember({"train", "val", "test"}))
      ->capture_default_str();
  app.add_option("--batch_size", o.batch_size)->check(apps::positive())->capture_default_str();
  app.add_option("--num_workers", o.workers, "threads that make batches")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();
  app.add_option("--output", o.output, "JSON file for all figures and reports");
  o.decoding.add(app);
  app.add_option("--seed", o.decoding.options.seed, "of words drawn by chance")
      ->check(apps::non_negative());
  app.add_flag("--cpu", o.cpu, "no GPU, even where there is one");
  app.add_option("--device", o.device, "cpu, cuda, cuda:1 or auto")->capture_default_str();
  if (!apps::parse_command_line(app, argc, argv)) return 0;
  for (const Split s : {Split::train, Split::val, Split::test})
    if (split == name_of(s)) o.split = s;
  return advising("a smaller --batch_size or --beam_size needs less",
                  [&] { return evaluate(o, app); });
}

}  // namespace

}  // namespace pinion::report

int main(int argc, char** argv) {
  return pinion::apps::run_program("eval", [&] { return pinion::report::run(argc, argv); });
}
