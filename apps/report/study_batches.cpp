// SPDX-License-Identifier: Apache-2.0
// Reads, resizes, keeps and stacks.
#include "pinion/apps/report/study_batches.h"

#include <algorithm>
#include <mutex>

#include "pinion/nn/ops.h"

namespace pinion::report {

void move_batch(StudyBatch& batch, Device device) {
  for (Tensor* t : {&batch.images, &batch.ids, &batch.targets, &batch.weight, &batch.padding})
    *t = t->to(device);
}

Image in_form(const Image& film, const ImageForm& form) {
  return resize(with_channels(film, form.channels), form.side, form.side);
}

namespace {

// Writes a film that is in form as numbers, and returns where the next one goes.
float* put(const Image& film, const ImageForm& form, float* to) {
  for (size_t i = 0; i < film.pixels.size(); ++i) {
    const size_t c = i % static_cast<size_t>(form.channels);
    *to++ = static_cast<float>((film.pixels[i] / 255.0 - form.mean[c]) / form.std[c]);
  }
  return to;
}

}  // namespace

Tensor tensor_of(std::span<const Image> films, const ImageForm& form) {
  Tensor out({static_cast<int64_t>(films.size()), form.side, form.side, form.channels});
  float* to = out.mut().as<float>();
  for (const Image& film : films) to = put(in_form(film, form), form, to);
  return out;
}

struct StudyBatches::State {
  std::shared_ptr<const StudySet> set;
  Split split;
  std::shared_ptr<const Tokenizer> tokenizer;
  ImageForm form;
  std::vector<std::vector<int64_t>> ids;  // of each report, with both ends

  std::mutex mutex;  // of the films
  std::vector<std::shared_ptr<const Image>> films;

  std::shared_ptr<const Image> film(int64_t study, int64_t view) {
    const auto at = static_cast<size_t>(study * set->views() + view);
    {
      const std::lock_guard lock(mutex);
      if (films[at]) return films[at];
    }
    const StudyEntry& entry = set->of(split)[static_cast<size_t>(study)];
    auto film = std::make_shared<const Image>(in_form(set->load(entry, view), form));
    const std::lock_guard lock(mutex);
    return films[at] = std::move(film);
  }
};

StudyBatches::StudyBatches(std::shared_ptr<const StudySet> set, Split split,
                           std::shared_ptr<const Tokenizer> tokenizer, const ImageForm& form,
                           int64_t max_length)
    : state_(std::make_shared<State>()) {
  PINION_REQUIRE(usage, max_length >= 2, "--max_seq_length: expected at least 2, got ", max_length);
  state_->split = split;
  state_->form = form;
  for (const std::string& report : set->cleaned_reports(split))
    state_->ids.push_back(tokenizer->encode(report, max_length));
  state_->films.resize(set->of(split).size() * static_cast<size_t>(set->views()));
  state_->set = std::move(set);
  state_->tokenizer = std::move(tokenizer);
}

int64_t StudyBatches::size() const { return static_cast<int64_t>(state_->ids.size()); }

const std::vector<StudyEntry>& StudyBatches::studies() const {
  return state_->set->of(state_->split);
}

std::string StudyBatches::reference(int64_t study) const {
  return state_->tokenizer->decode(std::span(state_->ids[static_cast<size_t>(study)]).subspan(1));
}

StudyBatch StudyBatches::get(std::span<const int64_t> indices) const {
  const ImageForm& form = state_->form;
  const int64_t views = state_->set->views();
  const auto batch = static_cast<int64_t>(indices.size());
  StudyBatch out;
  out.studies.assign(indices.begin(), indices.end());

  out.images = Tensor({views * batch, form.side, form.side, form.channels});
  float* to = out.images.mut().as<float>();
  for (int64_t view = 0; view < views; ++view)
    for (const int64_t study : indices) to = put(*state_->film(study, view), form, to);

  size_t longest = 0;
  for (const int64_t study : indices)
    longest = std::max(longest, state_->ids[static_cast<size_t>(study)].size());
  const auto steps = static_cast<int64_t>(longest) - 1;
  std::vector<int64_t> ids(static_cast<size_t>(batch * steps)), targets(ids.size());
  std::vector<float> weight(ids.size());
  std::vector<uint8_t> padding(ids.size());
  for (size_t b = 0; b < indices.size(); ++b) {
    const auto& report = state_->ids[static_cast<size_t>(indices[b])];
    for (size_t t = 0; t < static_cast<size_t>(steps); ++t) {
      const size_t at = b * static_cast<size_t>(steps) + t;
      ids[at] = t < report.size() ? report[t] : 0;
      targets[at] = t + 1 < report.size() ? report[t + 1] : 0;
      weight[at] = t + 1 < report.size() ? 1.0F : 0.0F;
      padding[at] = ids[at] == 0 && t > 0;
    }
  }
  const Shape shape{batch, steps};
  out.ids = Tensor::of(ids, shape);
  out.targets = Tensor::of(targets, shape);
  out.weight = Tensor::of(weight, shape);
  out.padding = nn::cast(Tensor::of(padding, shape), DType::boolean);
  return out;
}

}  // namespace pinion::report
