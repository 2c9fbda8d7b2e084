// SPDX-License-Identifier: Apache-2.0
// The settings of the report generator and their flags: R2Gen's, with its defaults, and those that
// Accelerate adds.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pinion/apps/report/decoding_flags.h"
#include "pinion/apps/report/study_batches.h"
#include "pinion/nn/amp.h"

namespace pinion::report {

struct Options {
  // data
  std::string image_dir = "data/iu_xray/images/";
  std::string ann_path = "data/iu_xray/annotation.json";
  std::string dataset_name = "iu_xray";
  int64_t max_seq_length = 60, threshold = 3, num_workers = 2, batch_size = 16;
  std::string on_bad_sample = "error";  // or "skip"
  std::optional<int64_t> max_eval_samples;
  int64_t image_cache_mib = 4096;  // of each split and rank
  // 0 where left and right matter, since the text is not mirrored. Default: .5, of nano 0.
  std::optional<double> hflip_prob;

  // model
  std::string visual_extractor = "resnet101";
  std::string pretrained_weights;  // safetensors with torchvision's names; "": start from noise
  TransformerOptions transformer;
  std::string memory = "rm_mcln";
  std::optional<int64_t> d_vf;  // only to be compared with the extractor's width

  DecodingFlags decoding;

  // training
  int64_t epochs = 100;
  std::optional<int64_t> max_steps;
  std::string optim = "Adam";
  double lr_ve = 5e-5, lr_ed = 1e-4, weight_decay = 5e-5;
  bool amsgrad = true;
  std::string lr_scheduler = "StepLR";  // or "cosine", with a warm-up of 5 %
  int64_t step_size = 50;
  double gamma = 0.1;
  double clip_value = 0.1;  // of each element of a gradient
  uint64_t seed = 9233;
  std::optional<int64_t> gradient_accumulation_steps;
  bool use_amp = false;
  std::optional<nn::Precision> mixed_precision;
  bool cpu = false;
  std::string device = "auto";
  bool sync_bn = false;  // batch norm by the statistics of all ranks' films of a view
  std::optional<int64_t> num_processes;  // only to be compared with how many there are

  // the run
  std::string save_dir = "results/iu_xray", record_dir = "records/";
  int64_t save_period = 1;
  std::string monitor_mode = "max", monitor_metric = "BLEU_4";
  int64_t early_stop = 50;
  bool profile = false;
  bool resume = false;
  std::string resume_from;                       // "": the newest checkpoint of save_dir
  std::vector<std::string> allow_config_change;  // names of settings(), or "*"
  bool allow_world_size_change = false;

  // JSON: what must be the same in a run that goes on, by the names of the flags. How long it runs,
  // and how it decodes, may change.
  std::string settings() const;

  bool nano() const { return visual_extractor == "nano"; }
  ImageForm image_form() const { return nano() ? ImageForm::nano() : ImageForm(); }
  Augmentation augmentation() const { return {hflip_prob.value_or(nano() ? 0 : .5), seed}; }
  DatasetName dataset() const {
    return dataset_name == "iu_xray" ? DatasetName::iu_xray : DatasetName::mimic_cxr;
  }
};

// The options, or nothing when the command line only asked for help. Throws Error (usage).
std::optional<Options> parse_options(int argc, char** argv);

}  // namespace pinion::report
