// SPDX-License-Identifier: Apache-2.0
// The studies of an annotation file: who they are, what was reported, and where their images lie.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "pinion/apps/report/clean_text.h"
#include "pinion/apps/report/image.h"

namespace pinion::report {

struct StudyEntry {
  std::string id;
  std::string report;               // as written
  std::vector<std::string> images;  // paths below the image folder
};

enum class Split : uint8_t { train, val, test };
const char* name_of(Split split);

struct StudySet {
  std::string image_dir;
  DatasetName dataset = DatasetName::iu_xray;
  std::array<std::vector<StudyEntry>, 3> splits;

  const std::vector<StudyEntry>& of(Split split) const {
    return splits[static_cast<size_t>(split)];
  }
  // How many images of a study are used: two of IU X-Ray, the first of MIMIC-CXR.
  int64_t views() const { return dataset == DatasetName::iu_xray ? 2 : 1; }
  std::vector<std::string> cleaned_reports(Split split) const;
  // View `view` of a study. Errors name the study and the file.
  Image load(const StudyEntry& study, int64_t view) const;
};

// Reads {"train": [{"id", "report", "image_path", "split"}, …], "val": …, "test": …}. Throws Error
// (data) that lists what is wrong, the first 20 with their places: a missing split, wrong types, an
// id that occurs twice, an empty report, a path that leaves the image folder, too few images.
StudySet load_studies(const std::string& annotation_path, const std::string& image_dir,
                      DatasetName dataset);

// Takes out the studies of which a used image cannot be read, and says for each what is wrong. All
// images are read, by `threads` threads, which call `on_study` after each study: every rank that
// sees the same files takes out the same. Throws Error (data) when these are more than
// kMaxBadShare of all studies, with the first of them.
inline constexpr double kMaxBadShare = 0.01;
std::vector<std::string> take_out_bad_studies(StudySet& set, int threads,
                                              const std::function<void()>& on_study);

}  // namespace pinion::report
