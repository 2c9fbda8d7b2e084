// SPDX-License-Identifier: Apache-2.0
// Images of 8 bits a channel: read from PNG and JPEG files under hard limits, resized, written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pinion {
class File;
}

namespace pinion::report {

struct Image {
  int64_t height = 0, width = 0;
  int64_t channels = 1;         // 1 grey, 3 red, green, blue
  std::vector<uint8_t> pixels;  // [height, width, channels]
};

// What a file may ask for before anything is allocated for it.
inline constexpr int64_t kMaxImageBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxImageSide = 16384;
inline constexpr int64_t kMaxImagePixels = int64_t{64} << 20;

// A PNG (grey, colour, palette, with or without alpha, which is dropped; 1 to 16 bits, interlaced
// or not) or a JPEG (grey or colour). `name` opens the error texts: Error (data) for what is
// neither, damaged, cut off, or beyond the limits.
Image decode_image(std::string_view bytes, const std::string& name);
// The same of a file. Throws Error (missing) when it is not there.
Image load_image(const File& file);
Image load_image(const std::string& path);
std::string encode_png(const Image& image);
std::string encode_jpeg(const Image& image, int quality);  // up to 100

// Grey from colour as (19595 R + 38470 G + 7471 B + 32768) / 65536, the weights of ITU-R 601; grey
// thrice from grey.
Image with_channels(const Image& image, int64_t channels);

// Pillow's bilinear resize, bit for bit: a triangle of the width of max(1, in / out) pixels, in
// weights of 22 bits, first along rows, then along columns, rounded to 8 bits between.
Image resize(const Image& image, int64_t height, int64_t width);
Image crop(const Image& image, int64_t top, int64_t left, int64_t height, int64_t width);
Image mirrored(const Image& image);  // left and right swapped

}  // namespace pinion::report
