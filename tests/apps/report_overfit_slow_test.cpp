// SPDX-License-Identifier: Apache-2.0
// The small model learns sixteen studies by heart and writes their reports without a mistake.
#include <gmock/gmock.h>

#include "pinion/apps/report/decoding.h"
#include "pinion/apps/report/film.h"
#include "pinion/apps/report/report_model.h"
#include "pinion/apps/report/study_batches.h"
#include "pinion/nn/init.h"
#include "pinion/optim/adam.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::report {
namespace {

TEST(ReportModel, LearnsSixteenStudiesByHeart) {
  constexpr int kStudies = 16;
  const TempDir dir;
  StudySet studies{dir / "images", DatasetName::iu_xray, {}};
  for (uint64_t i = 0; i < kStudies; ++i) {
    const Findings findings = draw_findings(4, 0, i);
    const Study study = draw_study(findings, 64, 4, 0, i);
    const std::string id = std::to_string(i);
    make_dirs(dir / "images/" + id);
    write_file_atomic(dir / "images/" + id + "/0.png", encode_png(study.frontal));
    write_file_atomic(dir / "images/" + id + "/1.png", encode_png(study.lateral));
    studies.splits[0].push_back({id, report_of(findings), {id + "/0.png", id + "/1.png"}});
  }
  const auto set = std::make_shared<const StudySet>(studies);
  const auto tokenizer = std::make_shared<const Tokenizer>(set->cleaned_reports(Split::train), 1);
  const StudyBatches batches(set, Split::train, tokenizer, ImageForm::nano(), 60);
  std::vector<int64_t> all(kStudies);
  for (int i = 0; i < kStudies; ++i) all[static_cast<size_t>(i)] = i;
  const StudyBatch batch = batches.get(all);

  manual_seed(5);
  ReportModel model("nano", 2, TransformerOptions::nano(tokenizer->vocabulary()));
  optim::Adam adam(model.named_parameters(), {.lr = 3e-3});
  double loss = 0;
  for (int step = 0; step < 150; ++step) {
    const Tensor y = nn::cross_entropy(model(batch.images, batch.ids, batch.padding), batch.targets,
                                       {.weight = batch.weight});
    backward(y);
    adam.step();
    adam.zero_grad();
    loss = y.item();
  }
  EXPECT_LT(loss, .05);

  // Batch norm goes on with the figures of this batch: the running ones lag behind.
  model.eval();
  model.visual_extractor.train();
  const auto written = write_reports(
      model.encoder_decoder, model.visual_extractor(batch.images).detach(), {.method = "greedy"});
  for (int i = 0; i < kStudies; ++i)
    EXPECT_EQ(tokenizer->decode(written[static_cast<size_t>(i)].ids), batches.reference(i));
}

}  // namespace
}  // namespace pinion::report
