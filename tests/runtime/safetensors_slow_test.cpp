// SPDX-License-Identifier: Apache-2.0
// The bounds of a safetensors header, which take a hundred megabytes to reach.
#include <gmock/gmock.h>

#include <cstring>

#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion {
namespace {

TEST(SafetensorsBounds, HeaderOfHundredMillionBytesIsTheLargest) {
  std::string bytes(8 + 100'000'001, ' ');
  bytes.replace(8, 2, "{}");
  for (const uint64_t length :
       {uint64_t{99'999'999}, kMaxSafetensorsHeader, kMaxSafetensorsHeader + 1}) {
    std::memcpy(bytes.data(), &length, 8);
    const std::string_view head(bytes.data(), 8 + length);
    if (length <= kMaxSafetensorsHeader)
      EXPECT_EQ(parse_safetensors_header(head, head.size(), "t").data_begin, 8 + length);
    else
      EXPECT_EQ(error_of([&] { parse_safetensors_header(head, head.size(), "t"); }).what(),
                std::string("t: expected a header of at most 100000000 bytes, got 100000001"));
  }
}

TEST(SafetensorsBounds, MillionTensorsAreTheMost) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i <= kMaxSafetensorsTensors; ++i)
    bytes +=
        cat({i ? "," : "{", "\"", i, "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"});
  bytes += '}';
  const uint64_t length = bytes.size() - 8;
  std::memcpy(bytes.data(), &length, 8);
  EXPECT_THAT(error_of([&] { parse_safetensors_header(bytes, bytes.size(), "t"); }).what(),
              testing::HasSubstr("at most 1000000 tensors, got more"));
}

}  // namespace
}  // namespace pinion
