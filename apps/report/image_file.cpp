// SPDX-License-Identifier: Apache-2.0
// PNG and JPEG by way of libpng and libjpeg. Both report errors by longjmp: what they may leave
// behind is owned outside of the functions that call setjmp.
// jpeglib.h needs what png.h includes.
// clang-format off
#include <png.h>
#include <jpeglib.h>
// clang-format on

#include <csetjmp>
#include <cstdlib>
#include <cstring>

#include "pinion/apps/report/image.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

[[noreturn]] void fail_image(const std::string& name, std::string_view what) {
  fail(ErrorKind::data,
       {name, ": expected a PNG or JPEG image, got one that is damaged: ", escaped(what)});
}

void check_size(const std::string& name, int64_t width, int64_t height) {
  PINION_REQUIRE(data,
                 width >= 1 && height >= 1 && width <= kMaxImageSide && height <= kMaxImageSide &&
                     width * height <= kMaxImagePixels,
                 name, ": expected an image of at most ", kMaxImageSide, " a side and ",
                 kMaxImagePixels, " pixels, got ", width, " x ", height);
}

// --- PNG ------------------------------------------------------------------------------------

struct PngReader {
  std::string_view left;
  std::string error;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::vector<png_bytep> rows;
  Image image;

  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

void png_read_bytes(png_structp png, png_bytep to, size_t bytes) {
  auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
  if (bytes > reader.left.size()) png_error(png, "the file ends early");
  std::memcpy(to, reader.left.data(), bytes);
  reader.left.remove_prefix(bytes);
}

void png_failed(png_structp png, png_const_charp text) {
  static_cast<PngReader*>(png_get_error_ptr(png))->error = text;
  png_longjmp(png, 1);
}

void png_warned(png_structp, png_const_charp) {}

// Header and conversions: afterwards the image's shape is known. False on an error.
bool png_begin(PngReader& r) {
  if (setjmp(png_jmpbuf(r.png)) != 0) return false;  // NOLINT: libpng's way
  png_set_read_fn(r.png, &r, png_read_bytes);
  png_set_user_limits(r.png, kMaxImageSide, kMaxImageSide);
  png_set_chunk_malloc_max(r.png, 1 << 20);
  png_set_keep_unknown_chunks(r.png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_crc_action(r.png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_read_info(r.png, r.info);
  const int colour = png_get_color_type(r.png, r.info);
  if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(r.png);
  if (colour == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(r.png);
  png_set_scale_16(r.png);
  png_set_strip_alpha(r.png);
  png_set_interlace_handling(r.png);
  png_read_update_info(r.png, r.info);
  r.image.width = png_get_image_width(r.png, r.info);
  r.image.height = png_get_image_height(r.png, r.info);
  r.image.channels = png_get_channels(r.png, r.info);
  return true;
}

bool png_finish(PngReader& r) {
  if (setjmp(png_jmpbuf(r.png)) != 0) return false;  // NOLINT
  png_read_image(r.png, r.rows.data());
  png_read_end(r.png, nullptr);
  return true;
}

Image decode_png(std::string_view bytes, const std::string& name) {
  PngReader r{bytes, {}, nullptr, nullptr, {}, {}};
  r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, png_failed, png_warned);
  r.info = r.png ? png_create_info_struct(r.png) : nullptr;
  if (!r.info) fail(ErrorKind::out_of_memory, {name, ": no memory to read a PNG image"});
  if (!png_begin(r)) fail_image(name, r.error);
  check_size(name, r.image.width, r.image.height);
  const auto row = static_cast<size_t>(r.image.width * r.image.channels);
  if (png_get_rowbytes(r.png, r.info) != row) fail_image(name, "rows of an unexpected length");
  r.image.pixels.resize(row * static_cast<size_t>(r.image.height));
  for (size_t y = 0; y < static_cast<size_t>(r.image.height); ++y)
    r.rows.push_back(r.image.pixels.data() + y * row);
  if (!png_finish(r)) fail_image(name, r.error);
  return std::move(r.image);
}

struct PngWriter {
  std::string out;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::vector<png_const_bytep> rows;
  ~PngWriter() { png_destroy_write_struct(&png, &info); }
};

void png_write_bytes(png_structp png, png_bytep from, size_t bytes) {
  static_cast<PngWriter*>(png_get_io_ptr(png))->out.append(reinterpret_cast<char*>(from), bytes);
}

bool png_write(PngWriter& w, const Image& image) {
  if (setjmp(png_jmpbuf(w.png)) != 0) return false;  // NOLINT
  png_set_write_fn(w.png, &w, png_write_bytes, nullptr);
  png_set_IHDR(w.png, w.info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8,
               image.channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(w.png, w.info);
  for (const png_const_bytep row : w.rows) png_write_row(w.png, row);
  png_write_end(w.png, nullptr);
  return true;
}

// --- JPEG -----------------------------------------------------------------------------------

struct JpegReader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf back{};
  std::string error;
  Image image;

  ~JpegReader() { jpeg_destroy_decompress(&jpeg); }
  static JpegReader& of(j_common_ptr jpeg) { return *static_cast<JpegReader*>(jpeg->client_data); }
};

[[noreturn]] void jpeg_failed(j_common_ptr jpeg) {
  auto& reader = JpegReader::of(jpeg);
  char text[JMSG_LENGTH_MAX];
  jpeg->err->format_message(jpeg, text);
  reader.error = text;
  std::longjmp(reader.back, 1);  // NOLINT: libjpeg's way
}

// What libjpeg would repair, a cut file above all, is an error here.
void jpeg_message(j_common_ptr jpeg, int level) {
  if (level < 0) jpeg_failed(jpeg);
}

void jpeg_progressed(j_common_ptr jpeg) {
  constexpr int kMaxScans = 100;  // a small file can ask for a great many
  auto& reader = JpegReader::of(jpeg);
  if (reader.jpeg.input_scan_number <= kMaxScans) return;
  reader.error = "more than 100 scans";
  std::longjmp(reader.back, 1);  // NOLINT
}

bool jpeg_begin(JpegReader& r, std::string_view bytes) {
  if (setjmp(r.back) != 0) return false;  // NOLINT
  jpeg_create_decompress(&r.jpeg);
  r.jpeg.client_data = &r;
  r.jpeg.progress = &r.progress;
  r.progress.progress_monitor = jpeg_progressed;
  jpeg_mem_src(&r.jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_read_header(&r.jpeg, TRUE);
  if (r.jpeg.num_components == 4) {
    r.error = "four inks (CMYK) where grey or colour was expected";
    return false;
  }
  r.jpeg.out_color_space = r.jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  r.image.width = r.jpeg.image_width;
  r.image.height = r.jpeg.image_height;
  r.image.channels = r.jpeg.num_components == 1 ? 1 : 3;
  return true;
}

bool jpeg_finish(JpegReader& r) {
  if (setjmp(r.back) != 0) return false;  // NOLINT
  jpeg_start_decompress(&r.jpeg);
  const auto row = static_cast<size_t>(r.image.width * r.image.channels);
  while (r.jpeg.output_scanline < r.jpeg.output_height) {
    JSAMPROW to = r.image.pixels.data() + r.jpeg.output_scanline * row;
    jpeg_read_scanlines(&r.jpeg, &to, 1);
  }
  jpeg_finish_decompress(&r.jpeg);
  return true;
}

Image decode_jpeg(std::string_view bytes, const std::string& name) {
  JpegReader r;
  r.jpeg.err = jpeg_std_error(&r.errors);
  r.jpeg.client_data = &r;
  r.errors.error_exit = jpeg_failed;
  r.errors.emit_message = jpeg_message;
  if (!jpeg_begin(r, bytes)) fail_image(name, r.error);
  check_size(name, r.image.width, r.image.height);
  r.image.pixels.resize(static_cast<size_t>(r.image.width * r.image.height * r.image.channels));
  if (!jpeg_finish(r)) fail_image(name, r.error);
  return std::move(r.image);
}

}  // namespace

Image decode_image(std::string_view bytes, const std::string& name) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(bytes, name);
  if (bytes.starts_with("\xff\xd8\xff")) return decode_jpeg(bytes, name);
  fail(ErrorKind::data, {name, ": expected a PNG or JPEG image, got ",
                         bytes.empty() ? "an empty file" : "something else"});
}

Image load_image(const File& file) {
  const int64_t bytes = file.size();
  PINION_REQUIRE(data, bytes <= kMaxImageBytes, file.path(), ": expected an image file of at most ",
                 kMaxImageBytes, " bytes, got ", bytes);
  std::string text(static_cast<size_t>(bytes), '\0');
  text.resize(file.read_some(text.data(), text.size(), 0));
  return decode_image(text, file.path());
}

Image load_image(const std::string& path) { return load_image(File(path, OpenMode::read)); }

std::string encode_png(const Image& image) {
  PINION_CHECK(image.channels == 1 || image.channels == 3,
               "encode_png: expected 1 or 3 channels, got ", image.channels);
  const auto row = static_cast<size_t>(image.width * image.channels);
  PINION_CHECK(image.width >= 1 && image.height >= 1 &&
                   image.pixels.size() == row * static_cast<size_t>(image.height),
               "encode_png: expected ", row, " bytes for each of ", image.height, " rows, got ",
               image.pixels.size(), " in all");
  PngWriter w;
  w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, png_warned);
  w.info = w.png ? png_create_info_struct(w.png) : nullptr;
  for (size_t y = 0; y < static_cast<size_t>(image.height); ++y)
    w.rows.push_back(image.pixels.data() + y * row);
  if (!w.info || !png_write(w, image))
    fail(ErrorKind::out_of_memory,
         {"encode_png: no memory for ", image.width, " x ", image.height});
  return std::move(w.out);
}

namespace {

struct JpegWriter {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  std::jmp_buf back{};
  unsigned char* out = nullptr;
  unsigned long size = 0;  // NOLINT: libjpeg's type

  ~JpegWriter() {
    jpeg_destroy_compress(&jpeg);
    std::free(out);  // NOLINT: libjpeg took it from malloc
  }
};

[[noreturn]] void jpeg_write_failed(j_common_ptr jpeg) {
  std::longjmp(static_cast<JpegWriter*>(jpeg->client_data)->back, 1);  // NOLINT
}

bool jpeg_write(JpegWriter& w, const Image& image, int quality) {
  if (setjmp(w.back) != 0) return false;  // NOLINT
  jpeg_create_compress(&w.jpeg);
  w.jpeg.client_data = &w;
  jpeg_mem_dest(&w.jpeg, &w.out, &w.size);
  w.jpeg.image_width = static_cast<JDIMENSION>(image.width);
  w.jpeg.image_height = static_cast<JDIMENSION>(image.height);
  w.jpeg.input_components = static_cast<int>(image.channels);
  w.jpeg.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&w.jpeg);
  jpeg_set_quality(&w.jpeg, quality, TRUE);
  jpeg_start_compress(&w.jpeg, TRUE);
  const auto row = static_cast<size_t>(image.width * image.channels);
  while (w.jpeg.next_scanline < w.jpeg.image_height) {
    auto* from = const_cast<JSAMPLE*>(image.pixels.data() + w.jpeg.next_scanline * row);
    jpeg_write_scanlines(&w.jpeg, &from, 1);
  }
  jpeg_finish_compress(&w.jpeg);
  return true;
}

}  // namespace

std::string encode_jpeg(const Image& image, int quality) {
  PINION_CHECK((image.channels == 1 || image.channels == 3) && image.width >= 1 &&
                   image.height >= 1 && image.width <= JPEG_MAX_DIMENSION &&
                   image.height <= JPEG_MAX_DIMENSION,
               "encode_jpeg: expected 1 or 3 channels and sides from 1 to ", JPEG_MAX_DIMENSION,
               ", got ", image.height, " x ", image.width, " x ", image.channels);
  JpegWriter w;
  w.jpeg.err = jpeg_std_error(&w.errors);
  w.jpeg.client_data = &w;
  w.errors.error_exit = jpeg_write_failed;
  if (!jpeg_write(w, image, quality))
    fail(ErrorKind::out_of_memory,
         {"encode_jpeg: no memory for ", image.width, " x ", image.height});
  return {reinterpret_cast<char*>(w.out), w.size};
}

}  // namespace pinion::report
