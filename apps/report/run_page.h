// SPDX-License-Identifier: Apache-2.0
// The page of a run: curves, figures of the test split beside those that need no image, and films
// with what was written of them and what that attended to.
#pragma once

#include <string>
#include <vector>

#include "pinion/accel/track/profile.h"
#include "pinion/apps/report/attention_picture.h"
#include "pinion/apps/report/evaluation.h"

namespace pinion::report {

struct GalleryEntry {
  std::string id;
  std::vector<Image> films;
  std::string truth, written;
  std::vector<Attended> attended;  // the sentences of what is written
};

struct RunPage {
  std::string title, subtitle;
  std::string metrics_path;  // the run's metrics.jsonl: an object an epoch
  int64_t best_epoch = 0;
  std::string blank_report;               // what is written of films without anything on them
  Controls controls;                      // of the test split
  std::string looks;                      // lines of text, may be empty
  std::vector<accel::ProfileShare> time;  // of training, may be empty
  std::vector<GalleryEntry> gallery;
  std::vector<std::pair<std::string, std::string>> settings;
};

std::string html_of(const RunPage& page);

}  // namespace pinion::report
