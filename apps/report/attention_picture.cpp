// SPDX-License-Identifier: Apache-2.0
// Asks the decoder, and draws heat over films.
#include "pinion/apps/report/attention_picture.h"

#include <algorithm>
#include <cmath>

#include "pinion/apps/report/tokenizer.h"
#include "pinion/runtime/autograd.h"

namespace pinion::report {

namespace {

constexpr int64_t kGap = 4;  // between films, in pixels

// The places of one view as a smooth grey image.
Image heat_of(const double* places, int64_t grid, double most, int64_t side) {
  Image heat{grid, grid, 1, std::vector<uint8_t>(static_cast<size_t>(grid * grid))};
  for (size_t i = 0; i < heat.pixels.size(); ++i)
    heat.pixels[i] = static_cast<uint8_t>(std::lround(255 * places[i] / most));
  return resize(heat, side, side);
}

// Half the film, half the heat; where there is no heat, half the film is what is left.
void put(Image& picture, int64_t top, int64_t left, const Image& film, const Image* heat) {
  for (int64_t y = 0; y < film.height; ++y)
    for (int64_t x = 0; x < film.width; ++x) {
      const auto from = static_cast<size_t>(y * film.width + x);
      const auto to = static_cast<size_t>(((top + y) * picture.width + left + x) * 3);
      for (int c = 0; c < 3; ++c) {
        int value = film.pixels[from];
        // Red rises over the first third of the heat, green over the second, blue over the last.
        if (heat) value = (value + std::clamp(3 * heat->pixels[from] - 255 * c, 0, 255)) / 2;
        picture.pixels[to + static_cast<size_t>(c)] = static_cast<uint8_t>(value);
      }
    }
}

}  // namespace

std::vector<std::vector<double>> attention_of(EncoderDecoder& model, const Tensor& features,
                                              const std::vector<int64_t>& written) {
  if (written.empty()) return {};
  const NoGrad no_grad;
  std::vector<int64_t> before = {Tokenizer::kEnd};
  before.insert(before.end(), written.begin(), written.end() - 1);
  const auto words = static_cast<int64_t>(before.size());
  const Tensor ids = Tensor::of(before, {1, words}).to(features.device());
  const Tensor all = model.image_attention(model.encode(features), ids);
  const std::vector<double> values = all.values<double>();
  const auto places = static_cast<ptrdiff_t>(all.size(2));
  std::vector<std::vector<double>> out;
  for (auto row = values.begin(); row != values.end(); row += places)
    out.emplace_back(row, row + places);
  return out;
}

std::vector<Attended> by_sentence(const std::vector<std::string>& words,
                                  const std::vector<std::vector<double>>& attention) {
  PINION_CHECK(words.size() == attention.size(), "by_sentence: expected attention of ",
               words.size(), " words, got that of ", attention.size());
  std::vector<Attended> out;
  size_t begin = 0;
  for (size_t end = 1; end <= words.size(); ++end) {
    if (end < words.size() && words[end - 1] != ".") continue;
    Attended sentence{{}, std::vector<double>(attention[begin].size())};
    for (size_t t = begin; t < end; ++t) {
      sentence.text += (t == begin ? "" : " ") + words[t];
      for (size_t p = 0; p < sentence.places.size(); ++p)
        sentence.places[p] += attention[t][p] / static_cast<double>(end - begin);
    }
    out.push_back(std::move(sentence));
    begin = end;
  }
  return out;
}

Image attention_picture(const std::vector<Image>& films, const std::vector<Attended>& parts,
                        int64_t side) {
  const auto views = static_cast<int64_t>(films.size());
  Image picture;
  picture.width = views * (side + kGap) - kGap;
  picture.height = static_cast<int64_t>(parts.size() + 1) * (side + kGap) - kGap;
  picture.channels = 3;
  picture.pixels.assign(static_cast<size_t>(picture.height * picture.width * 3), 255);
  for (int64_t view = 0; view < views; ++view) {
    const Image film = resize(with_channels(films[static_cast<size_t>(view)], 1), side, side);
    put(picture, 0, view * (side + kGap), film, nullptr);
    for (size_t row = 0; row < parts.size(); ++row) {
      const std::vector<double>& places = parts[row].places;
      const int64_t all = static_cast<int64_t>(places.size()) / views;
      const auto grid = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(all))));
      PINION_CHECK(grid > 0 && grid * grid * views == static_cast<int64_t>(places.size()),
                   "attention picture: expected a square of places for each of ", views,
                   " films, got ", places.size());
      const double most = std::max(1e-12, *std::max_element(places.begin(), places.end()));
      const Image heat = heat_of(places.data() + view * all, grid, most, side);
      put(picture, static_cast<int64_t>(row + 1) * (side + kGap), view * (side + kGap), film,
          &heat);
    }
  }
  return picture;
}

Image attention_row(const std::vector<Image>& films, const Attended& part, int64_t side) {
  const Image both = attention_picture(films, {part}, side);
  return crop(both, side + kGap, 0, side, both.width);
}

}  // namespace pinion::report
