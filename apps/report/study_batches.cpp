// SPDX-License-Identifier: Apache-2.0
// Reads, resizes, keeps and stacks.
#include "pinion/apps/report/study_batches.h"

#include <algorithm>
#include <mutex>

#include "pinion/kernels/philox.h"
#include "pinion/nn/ops.h"

namespace pinion::report {

void move_batch(StudyBatch& batch, Device device) {
  for (Tensor* t : {&batch.images, &batch.ids, &batch.targets, &batch.weight, &batch.padding})
    *t = t->to(device);
}

Image in_form(const Image& film, const ImageForm& form) {
  return resize(with_channels(film, form.channels), form.side, form.side);
}

Tensor tensor_of(std::span<const Image> films, const ImageForm& form) {
  Tensor out({static_cast<int64_t>(films.size()), form.side, form.side, form.channels});
  float* to = out.mut().as<float>();
  for (const Image& film : films) {
    const Image scaled = in_form(film, form);
    for (size_t i = 0; i < scaled.pixels.size(); ++i) {
      const size_t c = i % static_cast<size_t>(form.channels);
      *to++ = static_cast<float>((scaled.pixels[i] / 255.0 - form.mean[c]) / form.std[c]);
    }
  }
  return out;
}

struct StudyBatches::State {
  std::shared_ptr<const StudySet> set;
  Split split;
  std::shared_ptr<const Tokenizer> tokenizer;
  ImageForm form;
  std::optional<Augmentation> augmentation;
  std::array<std::array<float, 256>, 3> normalised;  // of each channel and 8-bit value
  std::vector<std::vector<int64_t>> ids;             // of each report, with both ends

  std::mutex mutex;  // of what follows
  std::vector<std::shared_ptr<const Image>> films;
  int64_t room;  // bytes that more of them may take

  std::shared_ptr<const Image> film(int64_t study, int64_t view) {
    const auto at = static_cast<size_t>(study * set->views() + view);
    {
      const std::lock_guard lock(mutex);
      if (films[at]) return films[at];
    }
    const StudyEntry& entry = set->of(split)[static_cast<size_t>(study)];
    Image read = set->load(entry, view);
    if (form.channels == 1) read = with_channels(read, 1);  // grey stays grey: put() repeats it
    int64_t height = form.side, width = form.side;
    if (augmentation) {
      const int64_t shorter = std::min(read.height, read.width);
      height = read.height * form.short_side / shorter;
      width = read.width * form.short_side / shorter;
    }
    auto film = std::make_shared<const Image>(resize(read, height, width));
    const auto bytes = static_cast<int64_t>(film->pixels.size());
    const std::lock_guard lock(mutex);
    if (!films[at] && bytes <= room) films[at] = film, room -= bytes;
    return film;
  }

  struct Part {
    int64_t top = 0, left = 0;
    bool mirrored = false;
  };
  Part draw(const Image& film, int64_t study, int64_t view, int64_t epoch) const {
    if (!augmentation) return {};
    constexpr uint32_t kStream = 0x6175676d;  // "augm"
    const PhiloxKey key{augmentation->seed, kStream, static_cast<uint64_t>(epoch)};
    const Philox4 words = philox(key, static_cast<uint64_t>(study * set->views() + view));
    const auto below = [&](int word, int64_t n) {  // from 0 to n - 1, each as often
      return static_cast<int64_t>((uint64_t{words.v[word]} * static_cast<uint64_t>(n)) >> 32);
    };
    return {below(0, film.height - form.side + 1), below(1, film.width - form.side + 1),
            uniform01(words.v[2]) < augmentation->hflip_prob};
  }

  // Writes side x side normalised pixels in the channels of the form, and says where they end.
  float* put(const Image& film, const Part& part, float* to) const {
    const int64_t step = (part.mirrored ? -1 : 1) * film.channels;
    const int64_t first = part.left + (part.mirrored ? form.side - 1 : 0);
    const auto channels = static_cast<size_t>(form.channels);
    const size_t next = film.channels == 1 ? 0 : 1;
    for (int64_t y = part.top; y < part.top + form.side; ++y) {
      const uint8_t* pixel = film.pixels.data() + (y * film.width + first) * film.channels;
      for (int64_t x = 0; x < form.side; ++x, pixel += step)
        for (size_t c = 0; c < channels; ++c) *to++ = normalised[c][pixel[c * next]];
    }
    return to;
  }
};

StudyBatches::StudyBatches(std::shared_ptr<const StudySet> set, Split split,
                           std::shared_ptr<const Tokenizer> tokenizer, const ImageForm& form,
                           int64_t max_length, std::optional<Augmentation> augmentation,
                           int64_t cache_bytes)
    : state_(std::make_shared<State>()) {
  PINION_REQUIRE(usage, max_length >= 2, "--max_seq_length: expected at least 2, got ", max_length);
  state_->split = split;
  PINION_CHECK(form.short_side >= form.side, "StudyBatches: expected short_side of at least side, ",
               form.side, ", got ", form.short_side);
  state_->form = form;
  state_->augmentation = augmentation;
  state_->room = cache_bytes;
  for (size_t c = 0; c < 3; ++c)
    for (size_t v = 0; v < 256; ++v)
      state_->normalised[c][v] =
          static_cast<float>((static_cast<double>(v) / 255.0 - form.mean[c]) / form.std[c]);
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

StudyBatch StudyBatches::get(std::span<const int64_t> indices, int64_t epoch) const {
  const ImageForm& form = state_->form;
  const int64_t views = state_->set->views();
  const auto batch = static_cast<int64_t>(indices.size());
  StudyBatch out;
  out.studies.assign(indices.begin(), indices.end());

  out.images = Tensor({views * batch, form.side, form.side, form.channels});
  float* to = out.images.mut().as<float>();
  for (int64_t view = 0; view < views; ++view)
    for (const int64_t study : indices) {
      const auto film = state_->film(study, view);
      to = state_->put(*film, state_->draw(*film, study, view, epoch), to);
    }

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
