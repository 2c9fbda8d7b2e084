// SPDX-License-Identifier: Apache-2.0
// generate: writes the report of one study's films, one's own or the set's, with the probability of
// each word, and draws where the model looked.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "pinion/apps/common/program.h"
#include "pinion/apps/report/attention_picture.h"
#include "pinion/apps/report/decoding_flags.h"
#include "pinion/apps/report/memory_advice.h"
#include "pinion/apps/report/model_folder.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/fs.h"

namespace pinion::report {

namespace {

struct GenerateOptions {
  std::string checkpoint, attention;
  std::vector<std::string> images;
  bool cpu = false;
  std::string device = "auto";
  DecodingFlags decoding;
};

std::string table_of(const std::vector<std::string>& words, const WrittenReport& report) {
  std::string text = "word                 probability\n";
  for (size_t i = 0; i < report.probabilities.size(); ++i)
    text += fmt::format("{:<20} {:>11.4f}\n", i < words.size() ? words[i] : "(end)",
                        report.probabilities[i]);
  return text;
}

int generate(const GenerateOptions& o, const CLI::App& app) {
  const NoGrad no_grad;
  const TrainedModel trained = load_model(o.checkpoint);
  const ModelSettings& settings = trained.settings;
  const auto views = static_cast<size_t>(settings.views);
  PINION_REQUIRE(usage, o.images.size() == views, "--images: expected ", views, " image",
                 views == 1 ? "" : "s, one of each view,", " got ", o.images.size());
  std::vector<Image> films;
  for (const std::string& path : o.images) films.push_back(load_image(path));
  const Device device = parse_device(o.cpu ? "cpu" : o.device);
  trained.model->to(device);
  const Tensor features =
      trained.model->visual_extractor(tensor_of(films, settings.image_form()).to(device));
  const std::vector<WrittenReport> reports =
      write_several(trained.model->encoder_decoder, features,
                    o.decoding.over(settings.decoding, app, *trained.tokenizer))
          .front();
  const WrittenReport& report = reports.front();

  std::vector<std::string> words;
  for (const int64_t id : report.ids) words.push_back(trained.tokenizer->word_of(id));
  apps::print(fmt::format("Report: {}\n\n{}", trained.tokenizer->decode(report.ids),
                          table_of(words, report)));
  for (size_t i = 1; i < reports.size(); ++i)
    apps::print(fmt::format("\nAnother: {}\n", trained.tokenizer->decode(reports[i].ids)));
  if (o.attention.empty()) return 0;
  std::vector<Attended> sentences;
  if (!words.empty())
    sentences =
        by_sentence(words, attention_of(trained.model->encoder_decoder, features, report.ids));
  write_file_atomic(o.attention, encode_png(attention_picture(films, sentences)));
  std::string rows = fmt::format("\n{}, from the top: the films", o.attention);
  for (const Attended& sentence : sentences) rows += "; " + sentence.text;
  apps::print(rows + "\n");
  return 0;
}

int run(int argc, char** argv) {
  GenerateOptions o;
  CLI::App app("Writes the radiology report of a study's films.");
  app.add_option("--checkpoint", o.checkpoint, "folder of a trained model: SAVE_DIR/model_best")
      ->required();
  app.add_option("--images", o.images, "PNG or JPEG, one of each view: frontal, lateral")
      ->required();
  app.add_option("--attention", o.attention,
                 "PNG to draw: the films, and a row for each sentence with what it attends to");
  o.decoding.add(app);
  app.add_option("--seed", o.decoding.options.seed, "of words drawn by chance");
  app.add_flag("--cpu", o.cpu, "no GPU, even where there is one");
  app.add_option("--device", o.device, "cpu, cuda, cuda:1 or auto")->capture_default_str();
  if (!apps::parse_command_line(app, argc, argv)) return 0;
  return advising("a smaller --beam_size or --sample_n needs less",
                  [&] { return generate(o, app); });
}

}  // namespace

}  // namespace pinion::report

int main(int argc, char** argv) {
  return pinion::apps::run_program("generate", [&] { return pinion::report::run(argc, argv); });
}
