// SPDX-License-Identifier: Apache-2.0
// Each rank writes its batches; texts and counts are gathered.
#include "pinion/apps/report/examination.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "pinion/accel/track/progress.h"
#include "pinion/apps/report/attention_picture.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {

namespace {

// A model in evaluation mode, and back. [all] Its buffers, the running statistics of each rank's
// batch norms, become rank 0's, which are those that are saved.
class Evaluating {
 public:
  Evaluating(accel::Accelerator& accelerator, ReportModel& model)
      : model_(model), trained_(model.training()), whole_(accelerator.summon_full_params()) {
    if (accelerator.use_distributed())
      for (const nn::NamedTensor& buffer : model.named_buffers())
        accelerator.group().broadcast(buffer.tensor, 0).wait();
    model.eval();
  }
  ~Evaluating() {
    if (trained_) model_.train();
  }
  Evaluating(const Evaluating&) = delete;
  Evaluating& operator=(const Evaluating&) = delete;

 private:
  ReportModel& model_;
  bool trained_;
  accel::GradientSync::Whole whole_;
  NoGrad no_grad_;
};

void blank_all_but(int64_t view, int64_t views, Tensor& images) {
  const int64_t each = images.size(0) / views;
  for (int64_t v = 0; v < views; ++v)
    if (v != view) {
      Tensor films = images.rows(v * each, (v + 1) * each);
      films.copy_(Tensor::zeros(films.shape(), films.dtype(), films.device()));
    }
}

}  // namespace

std::vector<Pair> Examiner::write(const StudyLoader& loader, std::optional<int64_t> only,
                                  const Boxes& boxes, Pointing* pointing) const {
  const Evaluating evaluating(*accelerator_, *model_);
  EncoderDecoder& decoder = model_->encoder_decoder;
  const StudyBatches& studies = loader->data();
  Pointing mine;
  nlohmann::json texts = nlohmann::json::array();
  std::optional<accel::Progress> bar;
  if (accelerator_->is_main_process()) bar.emplace("Writing", loader.batches());
  for (StudyBatch& batch : loader) {
    if (bar) bar->step();
    if (loader.real_rows() == 0) continue;
    if (only) blank_all_but(*only, settings_.views, batch.images);
    const Tensor features = model_->visual_extractor(batch.images);
    const auto reports = write_reports(decoder, features, settings_.decoding, batch.studies);
    for (int64_t i = 0; i < loader.real_rows(); ++i) {
      const int64_t study = batch.studies[static_cast<size_t>(i)];
      const std::vector<int64_t>& ids = reports[static_cast<size_t>(i)].ids;
      texts.push_back({study, tokenizer_->decode(ids)});
      const auto shown = boxes.find(studies.studies()[static_cast<size_t>(study)].id);
      if (shown == boxes.end() || !pointing) continue;
      std::vector<std::string> words;
      for (const int64_t id : ids) words.push_back(tokenizer_->word_of(id));
      mine.add(shown->second, studies.reference(study), words,
               attention_of(decoder, features.rows(i, i + 1), ids), settings_.views);
    }
  }
  if (bar) bar->erase();
  std::vector<Pair> pairs(static_cast<size_t>(studies.size()));
  const nlohmann::json all = {texts, mine.findings, mine.hits, mine.chance};
  for (const std::string& text : accelerator_->gather_object(all.dump())) {
    const nlohmann::json of_rank = nlohmann::json::parse(text);
    for (const auto& entry : of_rank[0]) {
      const auto study = entry[0].get<int64_t>();
      pairs[static_cast<size_t>(study)] = {entry[1].get<std::string>(), {studies.reference(study)}};
    }
    if (!pointing) continue;
    pointing->findings += of_rank[1].get<int64_t>();
    pointing->hits += of_rank[2].get<int64_t>();
    pointing->chance += of_rank[3].get<double>();
  }
  return pairs;
}

std::string Examiner::report_of_nothing() const {
  const Evaluating evaluating(*accelerator_, *model_);
  const ImageForm form = settings_.image_form();
  const Tensor films = Tensor::zeros({settings_.views, form.side, form.side, form.channels},
                                     DType::f32, accelerator_->device());
  const auto reports =
      write_reports(model_->encoder_decoder, model_->visual_extractor(films), settings_.decoding);
  return tokenizer_->decode(reports.front().ids);
}

Examiner::Result Examiner::examine(const StudyLoader& loader, const StudyBatches& training,
                                   const std::string& ann_path) const {
  const StudyBatches& studies = loader->data();
  const size_t slash = ann_path.rfind('/');
  const Boxes boxes = load_boxes(
      slash == std::string::npos ? "findings.json" : ann_path.substr(0, slash) + "/findings.json");
  Result out;
  Pointing pointing;
  out.pairs = write(loader, {}, boxes, &pointing);
  out.blank_report = report_of_nothing();
  std::vector<std::string> training_reports;
  for (int64_t i = 0; i < training.size(); ++i) training_reports.push_back(training.reference(i));
  out.controls = controls_of(out.pairs, out.blank_report, training_reports);
  if (!says_findings(out.pairs)) return out;

  if (settings_.views == 2)
    for (const auto& [view, name] : {std::pair(0, "frontal only"), std::pair(1, "lateral only")})
      out.controls.table.emplace_back(name, figures_of(write(loader, view)));
  std::vector<std::string> ids;
  for (const StudyEntry& study : studies.studies()) ids.push_back(study.id);
  const auto percent = [](double part, int64_t whole) {
    return 100 * part / static_cast<double>(whole);
  };
  const Flips flips = flips_of(ids, out.pairs);
  if (flips.findings > 0)
    out.looks += fmt::format(
        "  paired studies: {:.1f} % of {} findings that differ flip in the report; {:.1f} % of "
        "{} others stay\n",
        percent(static_cast<double>(flips.flipped), flips.findings), flips.findings,
        percent(static_cast<double>(flips.kept), flips.others), flips.others);
  if (pointing.findings > 0)
    out.looks += fmt::format(
        "  pointing game: attention peaks in the finding's box for {:.1f} % of {} findings said "
        "rightly; by chance {:.1f} %\n",
        percent(static_cast<double>(pointing.hits), pointing.findings), pointing.findings,
        percent(pointing.chance, pointing.findings));
  return out;
}

}  // namespace pinion::report
