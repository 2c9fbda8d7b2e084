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

// Resamples the middle one of three dimensions [outer, in, inner] -> [outer, out, inner].
std::vector<uint8_t> resampled(const std::vector<uint8_t>& from, int64_t outer, int64_t in,
                               int64_t inner, int64_t out) {
  const std::vector<Taps> taps = triangle_taps(in, out);
  std::vector<uint8_t> to(static_cast<size_t>(outer * out * inner));
  std::vector<int32_t> sums(static_cast<size_t>(inner));
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < out; ++i) {
      const Taps& t = taps[static_cast<size_t>(i)];
      std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
      const uint8_t* row = from.data() + (o * in + t.begin) * inner;
      for (const int32_t weight : t.weights) {
        for (size_t c = 0; c < sums.size(); ++c) sums[c] += row[c] * weight;
        row += inner;
      }
      uint8_t* result = to.data() + (o * out + i) * inner;
      for (size_t c = 0; c < sums.size(); ++c)
        result[c] = static_cast<uint8_t>(std::clamp(sums[c] >> kBits, 0, 255));
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
  Image out = image;
  if (width != image.width) {
    out.pixels = resampled(out.pixels, image.height, image.width, image.channels, width);
    out.width = width;
  }
  if (height != image.height) {
    out.pixels = resampled(out.pixels, 1, image.height, width * image.channels, height);
    out.height = height;
  }
  return out;
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
