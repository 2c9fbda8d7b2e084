// SPDX-License-Identifier: Apache-2.0
// Fuzz target: the bytes are an image file. It is refused as bad data, or it is an image within the
// limits whose pixels are all there, and which is the same once written and read again. A PNG comes
// a second time with checksums that fit, so that damage gets past them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "pinion/apps/report/image.h"
#include "pinion/kernels/check.h"

namespace {

using namespace pinion;
using namespace pinion::report;

// CRC-32 of RFC 2083, appendix 15.
uint32_t checksum(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

// Chunks are: length, type, as many bytes, checksum of the latter two; numbers big end first.
std::string with_checksums(std::string png) {
  for (size_t at = 8; at + 12 <= png.size();) {
    size_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<uint8_t>(png[at + i]);
    if (length > png.size() - at - 12) break;
    const uint32_t crc = checksum(std::string_view(png).substr(at + 4, length + 4));
    at += length + 12;
    for (size_t i = 0; i < 4; ++i) png[at - 4 + i] = static_cast<char>(crc >> (24 - 8 * i));
  }
  return png;
}

void check(std::string_view file) {
  try {
    const Image image = decode_image(file, "fuzz");
    const bool whole =
        image.height >= 1 && image.height <= kMaxImageSide && image.width >= 1 &&
        image.width <= kMaxImageSide && image.height * image.width <= kMaxImagePixels &&
        (image.channels == 1 || image.channels == 3) &&
        image.pixels.size() == static_cast<size_t>(image.height * image.width * image.channels);
    if (!whole) std::abort();
    constexpr size_t kSmall = 1 << 12;  // larger ones would take the time of many small ones
    if (image.pixels.size() > kSmall) return;
    if (decode_image(encode_png(image), "again").pixels != image.pixels) std::abort();
    if (resize(image, 5, 7).pixels.size() != static_cast<size_t>(35 * image.channels)) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::data) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file(reinterpret_cast<const char*>(data), size);
  check(file);
  if (file.starts_with("\x89PNG")) check(with_checksums(file));
  return 0;
}
