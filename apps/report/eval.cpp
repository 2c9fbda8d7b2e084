// SPDX-License-Identifier: Apache-2.0
// eval: how good a trained model's reports of a split are, beside figures that need no image.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <numeric>

#include "pinion/accel/track/progress.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/report/evaluation.h"
#include "pinion/apps/report/model_folder.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/device.h"

namespace pinion::report {

namespace {

struct EvalOptions {
  std::string checkpoint, image_dir = "data/cxr/images", ann_path = "data/cxr/annotation.json";
  Split split = Split::test;
  int64_t batch_size = 16;
  bool cpu = false;
};

std::vector<std::string> written(const TrainedModel& trained, const Tensor& films) {
  std::vector<std::string> out;
  const Tensor features = trained.model->visual_extractor(films);
  for (const WrittenReport& report :
       write_reports(trained.model->encoder_decoder, features, trained.settings.decoding))
    out.push_back(trained.tokenizer->decode(report.ids));
  return out;
}

int evaluate(const EvalOptions& o) {
  const NoGrad no_grad;
  const TrainedModel trained = load_model(o.checkpoint);
  const ModelSettings& settings = trained.settings;
  const ImageForm form = settings.image_form();
  const Device device = parse_device(o.cpu ? "cpu" : "auto");
  trained.model->to(device);
  const auto set = std::make_shared<const StudySet>(
      load_studies(o.ann_path, o.image_dir,
                   settings.views == 2 ? DatasetName::iu_xray : DatasetName::mimic_cxr));
  const auto batches = [&](Split split) {
    return StudyBatches(set, split, trained.tokenizer, form, settings.decoding.max_length);
  };
  const StudyBatches studies = batches(o.split), training = batches(Split::train);
  PINION_REQUIRE(data, studies.size() > 0, o.ann_path, ": expected studies in the split ",
                 name_of(o.split), ", got none");

  std::vector<Pair> pairs;
  accel::Progress progress("Writing", studies.size());
  while (static_cast<int64_t>(pairs.size()) < studies.size()) {
    const auto first = static_cast<int64_t>(pairs.size());
    std::vector<int64_t> numbers(
        static_cast<size_t>(std::min(o.batch_size, studies.size() - first)));
    std::iota(numbers.begin(), numbers.end(), first);
    for (const std::string& text : written(trained, studies.get(numbers).images.to(device))) {
      pairs.push_back({text, {studies.reference(static_cast<int64_t>(pairs.size()))}});
      progress.step();
    }
  }
  progress.erase();

  std::vector<std::string> training_reports;
  for (int64_t i = 0; i < training.size(); ++i) training_reports.push_back(training.reference(i));
  const Controls controls = controls_of(pairs, training_reports);
  const std::string of_nothing =
      written(trained, Tensor::zeros({settings.views, form.side, form.side, form.channels},
                                     DType::f32, device))
          .front();
  std::vector<Pair> blank = pairs;
  for (Pair& pair : blank) pair.hypothesis = of_nothing;
  apps::print(fmt::format("{} studies of the split {}\n{}", pairs.size(), name_of(o.split),
                          text_of(figures_of(pairs), figures_of(blank), controls)));
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
  app.add_option("--batch_size", o.batch_size)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_flag("--cpu", o.cpu, "no GPU, even where there is one");
  if (!apps::parse_command_line(app, argc, argv)) return 0;
  for (const Split s : {Split::train, Split::val, Split::test})
    if (split == name_of(s)) o.split = s;
  return evaluate(o);
}

}  // namespace

}  // namespace pinion::report

int main(int argc, char** argv) {
  return pinion::apps::run_program("eval", [&] { return pinion::report::run(argc, argv); });
}
