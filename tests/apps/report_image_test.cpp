// SPDX-License-Identifier: Apache-2.0
// Image files of every usual kind and of none; the resize against Pillow's, bit for bit.
#include <gmock/gmock.h>

#include <cmath>

#include "image_testing.h"
#include "pinion/apps/report/image.h"
#include "pinion/kernels/check.h"

namespace pinion::report {
namespace {

using testing::HasSubstr;

std::vector<uint8_t> noise(int64_t count) {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  uint32_t state = 12345;
  for (uint8_t& byte : out)
    byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return out;
}

Image noise_image(int64_t height, int64_t width, int64_t channels) {
  return {height, width, channels, noise(height * width * channels)};
}

uint64_t fnv1a(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
  return hash;
}

TEST(Image, ResizesAsPillowDoes) {
  struct Case {
    int64_t height, width, channels, to_height, to_width;
    uint64_t hash;  // of Pillow 13's result
  };
  constexpr Case kCases[] = {
      {420, 512, 1, 256, 312, 0x964fa7b24ae16e76u}, {420, 512, 3, 256, 312, 0xfe336d4b63ba3781u},
      {624, 512, 1, 312, 256, 0xe535d45109e15991u}, {624, 512, 3, 312, 256, 0x033d2401715d08dau},
      {512, 420, 1, 224, 224, 0x62d36f951ef242a7u}, {512, 420, 3, 224, 224, 0x702babb4e0d1121bu},
      {64, 64, 1, 224, 224, 0x50a524a75aa4101au},   {64, 64, 3, 224, 224, 0xd1d4114e2deddcb2u},
      {37, 53, 1, 53, 11, 0x8f63d20f567c05f8u},     {37, 53, 3, 53, 11, 0x4d95e7d257608933u},
      {301, 290, 1, 17, 13, 0x1ff61508bd541145u},   {301, 290, 3, 17, 13, 0xa375937701b5f0ffu},
  };
  for (const Case& c : kCases) {
    const Image out = resize(noise_image(c.height, c.width, c.channels), c.to_height, c.to_width);
    EXPECT_EQ(fnv1a(out.pixels), c.hash) << c.height << " x " << c.width << " x " << c.channels;
  }
  EXPECT_EQ(fnv1a(with_channels(noise_image(17, 31, 3), 1).pixels), 0x64b33563e6ae7ae6u);
}

TEST(Image, CropsAndMirrors) {
  const Image image{2, 3, 1, {1, 2, 3, 4, 5, 6}};
  EXPECT_EQ(crop(image, 1, 1, 1, 2).pixels, (std::vector<uint8_t>{5, 6}));
  EXPECT_EQ(mirrored(image).pixels, (std::vector<uint8_t>{3, 2, 1, 6, 5, 4}));
  EXPECT_THROW(crop(image, 1, 1, 2, 2), Error);
}

TEST(Image, WritesPngThatItReads) {
  for (const int64_t channels : {1, 3}) {
    const Image image = noise_image(13, 29, channels);
    const Image again = decode_image(encode_png(image), "a.png");
    EXPECT_EQ(again.channels, channels);
    EXPECT_EQ(again.pixels, image.pixels);
  }
}

TEST(Image, ReadsEveryKindOfPng) {
  using Bytes = std::vector<uint8_t>;
  const auto pixels = [](const std::string& png) { return decode_image(png, "x.png").pixels; };
  EXPECT_EQ(pixels(png_of(PNG_COLOR_TYPE_GRAY, 1, 2, {0x40, 0x80})), (Bytes{0, 255, 255, 0}));
  // 16 bits are scaled: 0x8080 is 128.50 of 255, 0xffff all of it.
  EXPECT_EQ(pixels(png_of(PNG_COLOR_TYPE_GRAY, 16, 2, {0xff, 0xff, 0, 0, 0x80, 0x80, 0x01, 0x01})),
            (Bytes{255, 0, 128, 1}));
  EXPECT_EQ(pixels(png_of(PNG_COLOR_TYPE_GRAY_ALPHA, 8, 2, {1, 0, 2, 255, 3, 9, 4, 9})),
            (Bytes{1, 2, 3, 4}));
  EXPECT_EQ(pixels(png_of(PNG_COLOR_TYPE_PALETTE, 8, 2, {0, 1, 1, 0})),
            (Bytes{10, 20, 30, 40, 50, 60, 40, 50, 60, 10, 20, 30}));
  const Bytes rgba = noise(5 * 5 * 4);
  Bytes rgb;
  for (size_t i = 0; i < rgba.size(); ++i)
    if (i % 4 != 3) rgb.push_back(rgba[i]);
  EXPECT_EQ(pixels(png_of(PNG_COLOR_TYPE_RGB_ALPHA, 8, 5, rgba)), rgb);
  EXPECT_EQ(pixels(png_of(PNG_COLOR_TYPE_RGB, 8, 5, rgb, PNG_INTERLACE_ADAM7)), rgb);
}

TEST(Image, ReadsJpegs) {
  for (const int64_t channels : {1, 3})
    for (const bool progressive : {false, true}) {
      const Image image = resize(noise_image(4, 4, channels), 40, 40);  // smooth
      const Image again = decode_image(jpeg_of(image, progressive), "a.jpg");
      ASSERT_EQ(again.pixels.size(), image.pixels.size());
      for (size_t i = 0; i < image.pixels.size(); ++i)
        EXPECT_NEAR(again.pixels[i], image.pixels[i], channels == 1 ? 2 : 40);
    }
}

std::string error_of(const std::string& bytes) {
  try {
    decode_image(bytes, "scan.png");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::data);
    return e.what();
  }
  return "no error";
}

TEST(Image, RefusesWhatIsDamaged) {
  const std::string png = encode_png(noise_image(20, 20, 1));
  const std::string jpeg = jpeg_of(resize(noise_image(4, 4, 3), 40, 40), false);
  EXPECT_THAT(error_of(""), HasSubstr("scan.png: expected a PNG or JPEG image, got an empty file"));
  EXPECT_THAT(error_of("GIF89a"), HasSubstr("got something else"));
  EXPECT_THAT(error_of(jpeg_of(noise_image(8, 8, 4), false)), HasSubstr("four inks (CMYK)"));
  for (const std::string& whole : {png, jpeg})
    for (size_t cut = 8; cut + 12 < whole.size(); cut += 7)
      EXPECT_THAT(error_of(whole.substr(0, cut)), HasSubstr("damaged")) << cut;
  for (size_t at = 8; at + 12 < png.size(); ++at) {  // a checksum guards every chunk
    std::string flipped = png;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    EXPECT_NE(error_of(flipped), "no error") << at;
  }
}

TEST(Image, RefusesHugeImagesBeforeTheyAreAllocated) {
  const auto png_claiming = [](uint32_t side) {
    std::string png = png_of(PNG_COLOR_TYPE_GRAY, 8, 2, {1, 2, 3, 4});
    for (const size_t at : {16U, 20U})
      for (size_t i = 0; i < 4; ++i) png[at + i] = static_cast<char>(side >> (24 - 8 * i));
    uint32_t crc = 0xffffffffu;  // of the header chunk: CRC-32 of RFC 2083, appendix 15
    for (size_t i = 12; i < 29; ++i) {
      crc ^= static_cast<uint8_t>(png[i]);
      for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
    }
    for (size_t i = 0; i < 4; ++i) png[29 + i] = static_cast<char>(~crc >> (24 - 8 * i));
    return png;
  };
  EXPECT_THAT(error_of(png_claiming(16000)), HasSubstr("16000 x 16000"));
  EXPECT_THAT(error_of(png_claiming(1u << 30)), HasSubstr("damaged"));
}

}  // namespace
}  // namespace pinion::report
