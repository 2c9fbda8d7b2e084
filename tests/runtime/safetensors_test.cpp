// SPDX-License-Identifier: Apache-2.0
// safetensors: files of the reference writer are read, ours are laid out as it lays them out, and
// every damaged file is refused with its own reason before memory is taken.
#include "pinion/runtime/safetensors.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "pinion/tests/support/fs_testing.h"

namespace pinion {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string little_endian(uint64_t value) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &value, 8);
  return bytes;
}

std::string file_of(const std::string& header, size_t data_bytes = 0) {
  return little_endian(header.size()) + header + std::string(data_bytes, '\0');
}

// {"name":{"dtype":…,"shape":…,"data_offsets":…}}
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}
std::string object(std::initializer_list<std::string> entries) {
  std::string out = "{";
  for (const std::string& e : entries) out.append(out.size() > 1 ? "," : "").append(e);
  return out.append("}");
}
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return object({entry("w", dtype, shape, offsets)});
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

struct Bad {
  std::string bytes;
  const char* what;  // part of the error's text
};

void check_refused(std::initializer_list<Bad> cases) {
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.what);
    const TempDir dir;
    const std::string path = dir / "bad.safetensors";
    write_file_atomic(path, bad.bytes);
    const int64_t live = memory_stats({}).live;
    const size_t descriptors = open_descriptors();
    const Error error = error_of([&] { load_safetensors(path); });
    EXPECT_EQ(error.kind(), ErrorKind::data);
    EXPECT_THAT(error.what(), StartsWith(path + ":"));
    EXPECT_THAT(error.what(), HasSubstr("expected "));
    EXPECT_THAT(error.what(), HasSubstr(bad.what));
    EXPECT_LT(strlen(error.what()), 500u);
    EXPECT_EQ(memory_stats({}).live, live);
    EXPECT_EQ(open_descriptors(), descriptors);
  }
}

TEST(BadSafetensors, LengthOfHeader) {
  check_refused(
      {Bad{"", "at least 8 bytes for the length of the header, got 0"},
       Bad{std::string(7, '\0'), "at least 8 bytes for the length of the header, got 7"},
       Bad{little_endian(0), "begins with '{', got nothing"},
       Bad{little_endian(3) + "{}", "a header of 3 bytes, got a file with 2 after"},
       Bad{little_endian(1000) + "{}", "a header of 1000 bytes"},
       Bad{little_endian(100'000'000) + "{}", "a header of 100000000 bytes, got a file with 2"},
       Bad{little_endian(100'000'001) + "{}", "at most 100000000 bytes, got 100000001"},
       Bad{little_endian(UINT64_MAX) + "{}", "at most 100000000 bytes, got 18446744073709551615"},
       Bad{little_endian(UINT64_MAX - 7) + "{}", "at most 100000000 bytes"},  // + 8 wraps to 0
       Bad{little_endian(uint64_t{1} << 63) + "{}", "at most 100000000 bytes"}});
}

TEST(BadSafetensors, FormOfHeader) {
  check_refused(
      {Bad{file_of("   "), "begins with '{', got nothing"},
       Bad{file_of("[]"), "begins with '{', got '['"},
       Bad{file_of("\"w\""), "begins with '{'"},
       Bad{file_of("\xEF\xBB\xBF{}"), "begins with '{', got '\\xef'"},
       Bad{file_of("{"), "unexpected end of input"},
       Bad{file_of("{\"w\":}"), "1:6: expected valid JSON"},
       Bad{file_of("{}x"), "expected end of input"},
       Bad{file_of("{}{}"), "expected end of input"},
       Bad{file_of(std::string("{}\0\0", 4)), "NUL byte"},
       Bad{file_of("{} /* */"), "valid JSON"},
       Bad{file_of("{\"\xff\":1}"), "ill-formed UTF-8"},
       Bad{file_of("{\"\xc0\xaf\":1}"), "ill-formed UTF-8"},
       Bad{file_of("{\"\\ud800\":1}"), "surrogate"},
       Bad{file_of(repeated("{\"a\":", 100'000)), "in tensor 'a', got 'a'"},
       Bad{file_of("{\"__metadata__\":{\"a\":1}}"), "strings in __metadata__ for key 'a', got 1"},
       Bad{file_of("{\"__metadata__\":{\"a\":{}}}"),
           "strings in __metadata__ for key 'a', got an object"},
       Bad{file_of("{\"__metadata__\":[]}"), "an object of strings as __metadata__, got an array"},
       Bad{file_of("{\"__metadata__\":null}"), "an object of strings as __metadata__, got null"},
       Bad{file_of("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}"),
           "key of __metadata__ once, got 'a' again"},
       Bad{file_of("{\"__metadata__\":{},\"__metadata__\":{}}"), "got '__metadata__' again"}});
}

TEST(BadSafetensors, FormOfEntry) {
  check_refused(
      {Bad{file_of("{\"w\":3}"), "an object for tensor 'w', got 3"},
       Bad{file_of("{\"w\":[]}"), "an object for tensor 'w', got an array"},
       Bad{file_of("{\"w\":{}}"), "the field dtype in tensor 'w'"},
       Bad{file_of("{\"w\":{\"dtype\":\"F32\"}}"), "the field shape in tensor 'w'"},
       Bad{file_of("{\"w\":{\"dtype\":\"F32\",\"shape\":[]}}"),
           "the field data_offsets in tensor 'w'"},
       Bad{file_of("{\"w\":{\"dtype\":3,"), "a string as dtype of tensor 'w', got 3"},
       Bad{file_of("{\"w\":{\"shape\":\"3\","),
           "an array of integers as shape of tensor 'w', got the string"},
       Bad{file_of("{\"w\":{\"data_offsets\":{},"), "an array of integers as data_offsets"},
       Bad{file_of("{\"w\":{\"dtype\":\"F32\",\"dtype\":"),
           "each field of tensor 'w' once, got 'dtype' again"},
       Bad{file_of("{\"w\":{\"extra\":1,"),
           "fields dtype, shape and data_offsets in tensor 'w', got 'extra'"},
       Bad{file_of(object({entry("w", "U8", "[0]", "[0,0]"), entry("w", "U8", "[0]", "[0,0]")})),
           "each tensor once, got 'w' again"},
       Bad{file_of(
               object({entry("w", "U8", "[0]", "[0,0]"), entry("\\u0077", "U8", "[0]", "[0,0]")})),
           "each tensor once, got 'w' again"},
       Bad{file_of(std::string("{\"") + std::string(4097, 'n') + "\":{}}"),
           "at most 4096 bytes, got one of 4097"},
       Bad{file_of(one("F31", "[1]", "[0,4]"), 4),
           "a dtype of the format for tensor 'w', got 'F31'"},
       Bad{file_of(one("f32", "[1]", "[0,4]"), 4), "a dtype of the format"},
       Bad{file_of(one("F32", "[-1]", "[0,4]"), 4),
           "extents from 0 to 2^63-1 in the shape of tensor 'w', got -1"},
       Bad{file_of(one("F32", "[1.0]", "[0,4]"), 4), "extents from 0 to 2^63-1"},
       Bad{file_of(one("F32", "[true]", "[0,4]"), 4), "got true"},
       Bad{file_of(one("F32", "[[1]]", "[0,4]"), 4), "got an array"},
       Bad{file_of(one("F32", "[9223372036854775808]", "[0,4]"), 4), "got 9223372036854775808"},
       Bad{file_of(one("F32", "[99999999999999999999]", "[0,4]"), 4), "got '99999999999999999999'"},
       Bad{file_of(one("F32", std::string("[") + repeated("1,", 64) + "1]", "[0,4]"), 4),
           "at most 64 dimensions"},
       Bad{file_of(one("F32", "[1]", "[0]"), 4),
           "two offsets >= 0 as data_offsets of tensor 'w', got 1"},
       Bad{file_of(one("F32", "[1]", "[0,4,8]"), 4),
           "two offsets >= 0 as data_offsets of tensor 'w', got more"},
       Bad{file_of(one("F32", "[1]", "[-4,0]"), 4), "two offsets >= 0"},
       Bad{file_of(one("F32", "[1]", "[0,4.0]"), 4), "two offsets >= 0"},
       Bad{file_of(one("F32", "[1]", "[4,0]"), 4), "do not decrease for tensor 'w', got 4 and 0"}});
}

TEST(BadSafetensors, LayoutOfData) {
  check_refused(
      {Bad{file_of(one("F32", "[1]", "[0,4]"), 3),
           "tensor 'w' to end within 3 bytes, got 4"},  // cut
       Bad{file_of(one("F32", "[1]", "[0,4]"), 0), "tensor 'w' to end within 0 bytes"},
       Bad{file_of(one("F32", "[1]", "[0,4]"), 5),
           "4 bytes of data after the header, got 5"},  // trailing
       Bad{file_of("{}", 1), "0 bytes of data after the header, got 1"},
       Bad{file_of(one("F32", "[1]", "[4,8]"), 8), "tensor 'w' at offset 0, got 4, a hole"},
       Bad{file_of(object({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[5,9]")}), 9),
           "tensor 'b' at offset 4, got 5, a hole"},
       Bad{file_of(object({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[3,7]")}), 7),
           "tensor 'b' at offset 4, got 3, an overlap"},
       Bad{file_of(object({entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[0,4]")}), 4),
           "an overlap"},
       Bad{file_of(one("F32", "[2]", "[0,4]"), 4),
           "8 bytes from the shape and dtype of tensor 'w', got 4"},
       Bad{file_of(one("F32", "[1]", "[0,8]"), 8),
           "4 bytes from the shape and dtype of tensor 'w', got 8"},
       Bad{file_of(one("F32", "[0]", "[0,4]"), 4), "0 bytes from the shape and dtype"},
       Bad{file_of(one("F32", "[]", "[0,0]")), "4 bytes from the shape and dtype"},
       Bad{file_of(one("F32", "[4611686018427387904,4]", "[0,0]")),
           "whose size fits 64 bits for tensor 'w'"},
       Bad{file_of(one("U8", "[4294967296,4294967297]", "[0,4294967296]"), 8),
           "to end within 8 bytes"},
       Bad{file_of(one("F32", "[2305843009213693952,0]", "[0,0]")), "whose size fits 64 bits"},
       Bad{file_of(one("F4", "[3]", "[0,1]"), 1), "whole bytes for tensor 'w', got 12 bits of F4"},
       Bad{file_of(one("U8", "[1]", "[0,18446744073709551615]"), 1), "to end within 1 bytes"},
       Bad{file_of(one("U8", "[1]", "[18446744073709551615,18446744073709551615]"), 1), "a hole"}});
}

TEST(BadSafetensors, UnsupportedOrNotBool) {
  check_refused({Bad{file_of(one("F8_E4M3", "[4]", "[0,4]"), 4),
                     "unsupported dtype of tensor 'w': expected F64, F32,"},
                 Bad{file_of(one("U64", "[1]", "[0,8]"), 8), "unsupported dtype of tensor 'w'"},
                 Bad{file_of(one("F4", "[2]", "[0,1]"), 1), "unsupported dtype of tensor 'w'"},
                 Bad{file_of(one("F32", "[1,1,1,1,1,1,1]", "[0,4]"), 4),
                     "unsupported rank of tensor 'w': expected at most 6"},
                 Bad{file_of(one("BOOL", "[3]", "[0,3]")) + std::string("\0\1\2", 3),
                     "0 or 1 in BOOL tensor 'w', got 2"}});
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  const TempDir dir;
  const auto load = [&](const std::string& bytes) {
    write_file_atomic(dir / "a", bytes);
    return load_safetensors(dir / "a");
  };
  EXPECT_TRUE(load(file_of("{}")).tensors.empty());
  EXPECT_TRUE(load(file_of(" \t\r\n{}  \n")).tensors.empty());  // white space around the object
  EXPECT_EQ(load(file_of("{\"__metadata__\":{\"a\":\"\",\"\":\"b\"}}")).metadata,
            (SafetensorsMetadata{{"a", ""}, {"", "b"}}));
  const auto scalar = load(file_of(one("F32", "[]", "[0,4]"), 4)).tensors;
  EXPECT_EQ(scalar[0].tensor.rank(), 0);
  EXPECT_EQ(scalar[0].tensor.item(), 0);
  // Any order of entries and fields; empty tensors lie between others; names are any text.
  const std::string longest(4096, 'n');
  const std::string mixed =
      object({"\"" + longest + "\":{\"data_offsets\":[4,6],\"shape\":[2,1],\"dtype\":\"U8\"}",
              entry("", "F64", "[3,0]", "[4,4]"), entry("../\\n\\u00e4", "I32", "[1]", "[0,4]")});
  const auto tensors = load(file_of(mixed, 6)).tensors;
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "../\n\xc3\xa4");
  EXPECT_EQ(tensors[1].name, "");
  EXPECT_EQ(tensors[1].tensor.shape(), (Shape{3, 0}));
  EXPECT_EQ(tensors[2].tensor.shape(), (Shape{2, 1}));
}

TEST(Safetensors, AnyChangedByteIsRefusedAsDataOrHarmless) {
  const std::string good =
      file_of(object({"\"__metadata__\":{\"k\":\"v\"}", entry("a", "I64", "[2,1]", "[0,16]"),
                      entry("b", "F16", "[3]", "[16,22]"), entry("c", "F4", "[0]", "[22,22]")}),
              22);
  const size_t header_end = good.size() - 22;
  int refused = 0;
  for (size_t at = 0; at < header_end; ++at) {
    for (int value = 0; value < 256; value += 3) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(value);
      try {
        uint64_t end = 0;
        for (const auto& e : parse_safetensors_header(bytes, bytes.size(), "t").entries) {
          EXPECT_EQ(e.offset, end);
          end += e.bytes;
        }
        EXPECT_EQ(end, 22u);
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::data) << error.what();
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 15'000);
  for (size_t size = 0; size < good.size(); ++size) {  // and any beginning of the file
    const std::string cut = good.substr(0, size);
    EXPECT_EQ(error_of([&] { parse_safetensors_header(cut, size, "t"); }).kind(), ErrorKind::data);
  }
}

TEST(Safetensors, CompatModeIgnoresUnknownFieldsOnly) {
  const auto parse = [](const std::string& extra, SafetensorsMode mode) {
    const std::string bytes =
        file_of("{\"w\":{\"dtype\":\"U8\"," + extra + "\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    return parse_safetensors_header(bytes, bytes.size(), "t", mode).entries.at(0);
  };
  const std::string extra =
      "\"a\":null,\"b\":[1,-2,3.5,{\"c\":[]}],\"d\":{\"dtype\":true,\"e\":\"f\"},\"g\":false,";
  EXPECT_EQ(parse(extra, SafetensorsMode::compat).bytes, 1u);
  EXPECT_THAT(error_of([&] { parse(extra, SafetensorsMode::strict); }).what(),
              HasSubstr("got 'a'"));
  EXPECT_THAT(error_of([&] { parse("\"dtype\":\"U8\",", SafetensorsMode::compat); }).what(),
              HasSubstr("again"));
  EXPECT_THAT(error_of([&] {
                parse("\"a\":" + repeated("[", 33) + repeated("]", 33) + ",",
                      SafetensorsMode::compat);
              }).what(),
              HasSubstr("at most 32 levels"));
}

// What the reference implementation (safetensors 0.8.0, from PyTorch) writes for these tensors.
const char* const kReferenceHeader =
    "{\"__metadata__\":{\"format\":\"pt\"},\"i\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":"
    "[0,16]}"
    ",\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[16,24]},\"a\":{\"dtype\":\"F32\","
    "\"shape\":["
    "3],\"data_offsets\":[24,36]},\"e\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[36,36]"
    "},\"i32\""
    ":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[36,40]},\"bf\":{\"dtype\":\"BF16\","
    "\"shape\":[1],\""
    "data_offsets\":[40,42]},\"h\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[42,44]},"
    "\"u\":{\"dtyp"
    "e\":\"U8\",\"shape\":[1],\"data_offsets\":[44,45]},\"b\":{\"dtype\":\"BOOL\",\"shape\":[2],"
    "\"data_offs"
    "ets\":[45,47]}}     ";

std::vector<NamedTensor> every_dtype() {
  const uint8_t flags[] = {1, 0};
  return {{"b", Tensor::of<bool>(std::span(reinterpret_cast<const bool*>(flags), 2), {2})},
          {"a", Tensor::of<float>({0, -1.5f, NAN}, {3})},
          {"i", Tensor::of<int64_t>({INT64_MIN, 7}, {2})},
          {"h", Tensor::of<Half>({Half(1.5f)}, {1})},
          {"bf", Tensor::of<BFloat16>({BFloat16(-2.0f)}, {1})},
          {"d", Tensor::of<double>({1e300}, {1})},
          {"u", Tensor::of<uint8_t>({255}, {1})},
          {"i32", Tensor::of<int32_t>({-3}, {})},
          {"e", Tensor({0, 3})}};
}

std::string raw_bytes(const Tensor& t) {
  return {static_cast<const char*>(t.view().data),
          static_cast<size_t>(t.numel() * size_of(t.dtype()))};
}

TEST(Safetensors, WritesTheLayoutOfTheReference) {
  const TempDir dir;
  save_safetensors(dir / "a", every_dtype(), {{"format", "pt"}});
  const std::string bytes = read_file(dir / "a", 10'000);
  const std::string header = kReferenceHeader;
  EXPECT_EQ(bytes.substr(0, 8), little_endian(header.size()));
  EXPECT_EQ(bytes.substr(8, header.size()), header);
  EXPECT_EQ(header.size() % 8, 0u);
  EXPECT_EQ(bytes.size(), 8 + header.size() + 47);
  EXPECT_EQ(bytes.substr(8 + header.size() + 45), std::string("\1\0", 2));
}

TEST(Safetensors, ReadsBackEveryDtypeBitForBit) {
  const TempDir dir;
  const std::vector<NamedTensor> saved = every_dtype();
  save_safetensors(dir / "a", saved, {{"k\"\n", "v\xc3\xa4"}});
  const SafetensorsReader reader(dir / "a");
  EXPECT_EQ(reader.metadata(), (SafetensorsMetadata{{"k\"\n", "v\xc3\xa4"}}));
  EXPECT_EQ(reader.entries().size(), saved.size());
  EXPECT_EQ(reader.find("none"), nullptr);
  for (const NamedTensor& t : saved) {
    SCOPED_TRACE(t.name);
    const SafetensorsEntry* found = reader.find(t.name);
    ASSERT_NE(found, nullptr);
    const Tensor loaded = reader.load(*found);
    EXPECT_EQ(loaded.dtype(), t.tensor.dtype());
    EXPECT_EQ(loaded.shape(), t.tensor.shape());
    EXPECT_EQ(raw_bytes(loaded), raw_bytes(t.tensor));
  }
}

TEST(Safetensors, LargeTensorsSurviveShortCalls) {
  const TempDir dir;
  std::vector<float> values(300'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.25f;
  FaultyFs faulty;
  const FsGuard guard(faulty);
  faulty.shorten_call("write", 2);
  save_safetensors(dir / "a", std::vector<NamedTensor>{{"w", Tensor::of(values, {300, 1000})}});
  EXPECT_TRUE(faulty.fired());
  faulty.shorten_call("read", 3);
  EXPECT_EQ(load_safetensors(dir / "a").tensors[0].tensor.values<float>(), values);
  EXPECT_TRUE(faulty.fired());
}

TEST(Safetensors, FailureOfAnyCallWhileSavingLeavesOldOrNewFile) {
  const std::vector<NamedTensor> tensors = {{"w", Tensor::full({100'000}, 1.0)},
                                            {"b", Tensor::full({3}, 2.0)}};
  check_every_failure([&](const std::string& path) { save_safetensors(path, tensors); });
}

TEST(Safetensors, FailureOfAnyReadIsAnError) {
  const TempDir dir;
  save_safetensors(dir / "a", every_dtype());
  int failures = 0;
  for (int k = 1;; ++k) {
    FaultyFs faulty;
    faulty.fail_call("read", k, EIO);
    const FsGuard guard(faulty);
    const Error error = error_of([&] { load_safetensors(dir / "a"); });
    if (!faulty.fired()) break;
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), HasSubstr("read: expected success on '" + (dir / "a")));
    ++failures;
  }
  EXPECT_EQ(failures, 2 + 8);  // length, header, and each tensor that is not empty
  EXPECT_EQ(error_of([&] { load_safetensors(dir / "none"); }).kind(), ErrorKind::missing);
}

TEST(Safetensors, FileCutWhileItIsReadIsAnError) {
  const TempDir dir;
  save_safetensors(dir / "a", std::vector<NamedTensor>{{"w", Tensor::full({1000}, 1.0)}});
  const SafetensorsReader reader(dir / "a");
  File(dir / "a", OpenMode::append).truncate(2000);
  const Error error = error_of([&] { reader.load(reader.entries()[0]); });
  EXPECT_EQ(error.kind(), ErrorKind::data);
  EXPECT_THAT(error.what(), HasSubstr("expected 4000 bytes at offset"));
}

TEST(Safetensors, RefusesToSaveWhatItCouldNotLoad) {
  const TempDir dir;
  const Tensor t = Tensor::zeros({1});
  const auto save = [&](const std::vector<NamedTensor>& tensors,
                        const SafetensorsMetadata& m = {}) {
    return error_of([&] { save_safetensors(dir / "a", tensors, m); });
  };
  EXPECT_THAT(save({{"a", t}, {"b", t}, {"a", t}}).what(),
              HasSubstr("must be unique, got 'a' twice"));
  EXPECT_THAT(save({{"w", Tensor()}}).what(), HasSubstr("tensor 'w' must be defined"));
  EXPECT_THAT(save({{"__metadata__", t}}).what(), HasSubstr("not be __metadata__"));
  EXPECT_THAT(save({{std::string(4097, 'n'), t}}).what(), HasSubstr("at most 4096 bytes"));
  EXPECT_THAT(save({{"\xff", t}}).what(), HasSubstr("UTF-8"));
  EXPECT_THAT(save({{"w", t}}, {{"k", "\xff"}}).what(), HasSubstr("UTF-8"));
  const std::string huge(100'000'000, 'x');  // NOLINT(bugprone-string-constructor): it is meant
  EXPECT_THAT(save({{"w", t}}, {{"k", huge}}).what(),
              HasSubstr("the header must have at most 100000000 bytes"));
  EXPECT_TRUE(list_dir(dir.path()).empty());
}

}  // namespace
}  // namespace pinion
