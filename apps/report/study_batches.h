// SPDX-License-Identifier: Apache-2.0
// Batches of studies as tensors, for a data loader: films scaled and cut to one size, reports as
// numbers of words.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "pinion/apps/report/study_set.h"
#include "pinion/apps/report/tokenizer.h"
#include "pinion/runtime/tensor.h"

namespace pinion::report {

struct StudyBatch {
  Tensor images;   // f32 [views * B,H,W,channels], one view of all studies after the other
  Tensor ids;      // i64 [B,T], the words before each
  Tensor targets;  // i64 [B,T], the words
  Tensor weight;   // f32 [B,T], 1 for each word of the report and its end, 0 behind
  Tensor padding;  // bool [B,T], where ids has no word
  std::vector<int64_t> studies;

  int64_t size() const { return static_cast<int64_t>(studies.size()); }
};

// Brings a batch to a rank's device; the loader of an Accelerator finds it.
void move_batch(StudyBatch& batch, Device device);

struct ImageForm {
  int64_t side = 224;
  int64_t short_side = 256;  // of a film of which a random part is cut out
  int64_t channels = 3;
  std::array<double, 3> mean = {.485, .456, .406}, std = {.229, .224, .225};  // of ImageNet
  static ImageForm nano() { return {64, 64, 1, {.5, .5, .5}, {.25, .25, .25}}; }
};

// Films changed at random, each view of a study on its own: scaled until the short side is
// ImageForm::short_side, a part of side x side cut out at any place, mirrored or not. What becomes
// of a view is a function of (seed, epoch, study, view).
struct Augmentation {
  double hflip_prob = .5;
  uint64_t seed = 0;
};

// A film in the size and channels of the form.
Image in_form(const Image& film, const ImageForm& form);
// Films of any size -> f32 [n,H,W,channels], as the model takes them.
Tensor tensor_of(std::span<const Image> films, const ImageForm& form);

// A data set in the sense of accel/data/data_set.h. Films are kept in memory once they were read
// and resized, 8 bits a value, until cache_bytes are full: each is asked for as often as any other,
// so those that came first stay. Without augmentation they are scaled to side x side, whatever
// their form.
class StudyBatches {
 public:
  StudyBatches(std::shared_ptr<const StudySet> set, Split split,
               std::shared_ptr<const Tokenizer> tokenizer, const ImageForm& form,
               int64_t max_length, std::optional<Augmentation> augmentation = {},
               int64_t cache_bytes = int64_t{1} << 62);

  int64_t size() const;
  StudyBatch get(std::span<const int64_t> indices, int64_t epoch = 0) const;
  const std::vector<StudyEntry>& studies() const;
  // What the metrics compare with: the report as the tokenizer gives it back, cut to max_length.
  std::string reference(int64_t study) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pinion::report
