// SPDX-License-Identifier: Apache-2.0
// The folder of a trained model: its weights, its words, and the settings without which neither
// means anything (model.json). What trains writes it; what uses a model needs nothing else.
#pragma once

#include <memory>
#include <string>

#include "pinion/apps/report/decoding.h"
#include "pinion/apps/report/report_model.h"
#include "pinion/apps/report/study_batches.h"

namespace pinion::report {

struct ModelSettings {
  std::string visual_extractor;
  int64_t views = 2;
  TransformerOptions transformer;
  DecodingOptions decoding;

  ImageForm image_form() const {
    return visual_extractor == "nano" ? ImageForm::nano() : ImageForm();
  }
};

// "base", "rm" or "rm_mcln". memory_of throws Error (usage) for another name.
const char* name_of(MemoryKind memory);
MemoryKind memory_of(const std::string& name);

// Writes model.json and vocabulary.txt, a word a line; the folder is made when it is not there.
void describe_model(const std::string& folder, const ModelSettings& settings,
                    const Tokenizer& tokenizer);

struct TrainedModel {
  ModelSettings settings;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<ReportModel> model;  // on the CPU, in evaluation mode
};
// Reads both, and model.safetensors. What model.json lacks of how reports are decoded is as in
// DecodingOptions. Throws Error: missing for a file that is not there, checkpoint
// for settings that make no sense or do not fit the weights, and for other words than the model was
// trained with.
TrainedModel load_model(const std::string& folder);

}  // namespace pinion::report
