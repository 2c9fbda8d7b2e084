// SPDX-License-Identifier: Apache-2.0
// Resize, crop, mirror.
#include "pinion/apps/report/image.h"

#include <algorithm>

#include "pinion/kernels/check.h"

namespace pinion::report {

namespace {

constexpr int kBits = 22;  // of the weights

// The input pixels of one output pixel, and their weights times 2^22.
struct Taps {
  int64_t begin;
  std::vector<int32_t> weights;
};

std::vector<Taps> triangle_taps(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double reach = std::max(scale, 1.0);
  std::vector<Taps> all(static_cast<size_t>(out));
  for (int64_t i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + .5) * scale;
    const auto begin = std::max<int64_t>(0, static_cast<int64_t>(centre - reach + .5));
    const auto end = std::min(in, static_cast<int64_t>(centre + reach + .5));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t x = begin; x < end; ++x) {
      const double distance = (static_cast<double>(x) - centre + .5) / reach;
      weights.push_back(std::max(0.0, 1 - std::abs(distance)));
      sum += weights.back();
    }
    Taps& taps = all[static_cast<size_t>(i)];
    taps.begin = begin;
    for (const double w : weights)
      taps.weights.push_back(static_cast<int32_t>(w / sum * (1 << kBits) + .5));
  }
  return all;
}

uint8_t rounded(int32_t sum) {
  return static_cast<uint8_t>(std::clamp((sum + (1 << (kBits - 1))) >> kBits, 0, 255));
}

// Taps with their weights in halves of 11 bits, of which processors multiply many at once; zeros
// make their number a multiple of kStep.
struct HalfTaps {
  static constexpr size_t kStep = 8;
  size_t begin;
  std::vector<int16_t> high, low;

  explicit HalfTaps(const Taps& taps)
      : begin(static_cast<size_t>(taps.begin)),
        high((taps.weights.size() + kStep - 1) / kStep * kStep),
        low(high.size()) {
    for (size_t i = 0; i < taps.weights.size(); ++i) {
      high[i] = static_cast<int16_t>(taps.weights[i] >> (kBits / 2));
      low[i] = static_cast<int16_t>(taps.weights[i] & ((1 << (kBits / 2)) - 1));
    }
  }
  int32_t sum(const int16_t* row) const {
    const size_t count = high.size() / kStep * kStep;  // so that the compiler knows
    const int16_t *from = row + begin, *h = high.data(), *l = low.data();
    int32_t of_high = 0, of_low = 0;
    for (size_t i = 0; i < count; ++i) of_high += from[i] * h[i], of_low += from[i] * l[i];
    return (of_high << (kBits / 2)) + of_low;
  }
};

// [height, in, channels] -> [height, out, channels]
std::vector<uint8_t> resampled_rows(const Image& from, int64_t out) {
  std::vector<HalfTaps> taps;
  for (const Taps& t : triangle_taps(from.width, out)) taps.emplace_back(t);
  const auto channels = static_cast<size_t>(from.channels), in = static_cast<size_t>(from.width);
  std::vector<uint8_t> to(static_cast<size_t>(from.height * out) * channels);
  std::vector<int16_t> row(in + HalfTaps::kStep);  // of one channel, and what meets the zeros
  for (size_t y = 0; y < static_cast<size_t>(from.height); ++y)
    for (size_t c = 0; c < channels; ++c) {
      const uint8_t* pixels = from.pixels.data() + y * in * channels + c;
      if (channels == 1)
        std::copy(pixels, pixels + in, row.begin());
      else
        for (size_t x = 0; x < in; ++x) row[x] = pixels[x * 3];
      uint8_t* result = to.data() + y * taps.size() * channels + c;
      for (size_t i = 0; i < taps.size(); ++i)
        result[i * channels] = rounded(taps[i].sum(row.data()));
    }
  return to;
}

// [in, row] -> [out, row], where a row is all of width and channels.
std::vector<uint8_t> resampled_columns(const std::vector<uint8_t>& from, int64_t in, int64_t row,
                                       int64_t out) {
  std::vector<uint8_t> to(static_cast<size_t>(out * row));
  std::vector<int32_t> sums(static_cast<size_t>(row));
  uint8_t* result = to.data();
  for (const Taps& t : triangle_taps(in, out)) {
    std::fill(sums.begin(), sums.end(), 0);
    const uint8_t* pixels = from.data() + t.begin * row;
    for (const int32_t weight : t.weights)
      for (int32_t& sum : sums) sum += *pixels++ * weight;
    for (const int32_t sum : sums) *result++ = rounded(sum);
  }
  return to;
}

}  // namespace

Image with_channels(const Image& image, int64_t channels) {
  PINION_CHECK(channels == 1 || channels == 3, "with_channels: expected 1 or 3, got ", channels);
  if (image.channels == channels) return image;
  Image out{image.height, image.width, channels, {}};
  out.pixels.reserve(static_cast<size_t>(image.height * image.width * channels));
  if (channels == 3)
    for (const uint8_t grey : image.pixels) out.pixels.insert(out.pixels.end(), 3, grey);
  else
    for (size_t i = 0; i < image.pixels.size(); i += 3) {
      const uint32_t r = image.pixels[i], g = image.pixels[i + 1], b = image.pixels[i + 2];
      out.pixels.push_back(static_cast<uint8_t>((r * 19595 + g * 38470 + b * 7471 + 32768) >> 16));
    }
  return out;
}

Image resize(const Image& image, int64_t height, int64_t width) {
  PINION_CHECK(height >= 1 && width >= 1, "resize: expected a size of at least 1 x 1, got ", height,
               " x ", width);
  std::vector<uint8_t> pixels = width == image.width ? image.pixels : resampled_rows(image, width);
  if (height != image.height)
    pixels = resampled_columns(pixels, image.height, width * image.channels, height);
  return {height, width, image.channels, std::move(pixels)};
}

Image crop(const Image& image, int64_t top, int64_t left, int64_t height, int64_t width) {
  PINION_CHECK(top >= 0 && left >= 0 && height >= 1 && width >= 1 && top + height <= image.height &&
                   left + width <= image.width,
               "crop: expected a part of ", image.height, " x ", image.width, ", got ", height,
               " x ", width, " at ", top, ", ", left);
  Image out{height, width, image.channels, {}};
  for (int64_t y = top; y < top + height; ++y) {
    const auto begin = image.pixels.begin() + (y * image.width + left) * image.channels;
    out.pixels.insert(out.pixels.end(), begin, begin + width * image.channels);
  }
  return out;
}

Image mirrored(const Image& image) {
  Image out = image;
  const auto channels = static_cast<size_t>(image.channels),
             width = static_cast<size_t>(image.width);
  for (size_t y = 0; y < static_cast<size_t>(image.height); ++y)
    for (size_t x = 0; x < width; ++x)
      for (size_t c = 0; c < channels; ++c)
        out.pixels[(y * width + x) * channels + c] =
            image.pixels[(y * width + width - 1 - x) * channels + c];
  return out;
}

}  // namespace pinion::report
