// SPDX-License-Identifier: Apache-2.0
// Image files of kinds that the program itself does not write, for tests that read them.
#pragma once

// jpeglib.h needs what png.h includes.
// clang-format off
#include <png.h>
#include <jpeglib.h>
// clang-format on

#include <cstdlib>
#include <string>
#include <vector>

#include "pinion/apps/report/image.h"

namespace pinion::report {

// A PNG of any kind, written by libpng itself: 16 bits become bytes big end first.
inline std::string png_of(int colour, int bits, int64_t side, const std::vector<uint8_t>& rows,
                          int interlace = PNG_INTERLACE_NONE) {
  std::string out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep from, size_t n) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(from), n);
      },
      nullptr);
  const auto size = static_cast<png_uint_32>(side);
  png_set_IHDR(png, info, size, size, bits, colour, interlace, 0, 0);
  const png_color palette[] = {{10, 20, 30}, {40, 50, 60}};
  if (colour == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(png, info, palette, 2);
  png_write_info(png, info);
  const size_t row = rows.size() / static_cast<size_t>(side);
  std::vector<png_bytep> pointers;
  for (size_t y = 0; y < static_cast<size_t>(side); ++y)
    pointers.push_back(const_cast<png_bytep>(rows.data() + y * row));
  png_write_image(png, pointers.data());
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return out;
}

// `quality` up to 100.
inline std::string jpeg_of(const Image& image, bool progressive, int quality = 100) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* out = nullptr;
  unsigned long size = 0;  // NOLINT: libjpeg's type
  jpeg_mem_dest(&jpeg, &out, &size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = static_cast<int>(image.channels);
  jpeg.in_color_space = image.channels == 1   ? JCS_GRAYSCALE
                        : image.channels == 3 ? JCS_RGB
                                              : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  if (progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  const auto row = static_cast<size_t>(image.width * image.channels);
  while (jpeg.next_scanline < jpeg.image_height) {
    auto* at = const_cast<unsigned char*>(image.pixels.data() + jpeg.next_scanline * row);
    jpeg_write_scanlines(&jpeg, &at, 1);
  }
  jpeg_finish_compress(&jpeg);
  std::string text(reinterpret_cast<char*>(out), size);
  jpeg_destroy_compress(&jpeg);
  std::free(out);  // NOLINT: libjpeg took it from malloc
  return text;
}

}  // namespace pinion::report
