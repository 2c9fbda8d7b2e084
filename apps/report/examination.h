// SPDX-License-Identifier: Apache-2.0
// Has a model write the reports of a split, on all ranks, and says how good they are. All ranks
// come to the same reports and figures, however many they are: batches are those of one rank.
#pragma once

#include <optional>

#include "pinion/accel/accelerator.h"
#include "pinion/apps/report/evaluation.h"
#include "pinion/apps/report/looking.h"
#include "pinion/apps/report/model_folder.h"

namespace pinion::report {

using StudyLoader = accel::AcceleratedLoader<StudyBatches>;

// Loaders must not be shuffled, and the Accelerator's batches not be even.
class Examiner {
 public:
  Examiner(accel::Accelerator& accelerator, ReportModel& model, const ModelSettings& settings,
           const Tokenizer& tokenizer)
      : accelerator_(&accelerator), model_(&model), settings_(settings), tokenizer_(&tokenizer) {}

  // [all] The report written for each study of the loader's split beside the true one. With
  // `only`, all views but that one are blank. `pointing` gets the findings of studies with boxes.
  std::vector<Pair> write(const StudyLoader& loader, std::optional<int64_t> only = {},
                          const Boxes& boxes = {}, Pointing* pointing = nullptr) const;

  struct Result {
    std::vector<Pair> pairs;
    Controls controls;
    std::string blank_report;
    std::string looks;  // lines on what needs the synthetic set: pairs of studies, pointing
  };
  // [all] What it writes, with all controls; findings.json may lie beside the annotation.
  Result examine(const StudyLoader& loader, const StudyBatches& training,
                 const std::string& ann_path) const;

 private:
  std::string report_of_nothing() const;

  accel::Accelerator* accelerator_;
  ReportModel* model_;
  ModelSettings settings_;
  const Tokenizer* tokenizer_;
};

}  // namespace pinion::report
