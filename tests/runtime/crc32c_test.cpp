// SPDX-License-Identifier: Apache-2.0
// CRC-32C against the values of RFC 3720, and its two ways against each other.
#include "pinion/runtime/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace pinion {
namespace {

TEST(Crc32c, GivesTheValuesOfTheStandard) {
  const std::string digits = "123456789", zeros(32, '\0'), ones(32, '\xff');
  EXPECT_EQ(crc32c(digits.data(), digits.size()), 0xe3069283u);
  EXPECT_EQ(crc32c(zeros.data(), zeros.size()), 0x8a9136aau);
  EXPECT_EQ(crc32c(ones.data(), ones.size()), 0x62a8ab43u);
  EXPECT_EQ(crc32c(nullptr, 0), 0u);
}

TEST(Crc32c, BothWaysAgreeAtEveryLengthAndOffset) {
  std::mt19937 random(1);
  std::string bytes(200, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  for (size_t offset = 0; offset < 8; ++offset)
    for (size_t n = 0; n + offset <= bytes.size(); ++n)
      ASSERT_EQ(crc32c(bytes.data() + offset, n),
                detail::crc32c_by_tables(bytes.data() + offset, n, 0));
}

TEST(Crc32c, GoesOnWhereItStopped) {
  const std::string text = "The quick brown fox jumps over the lazy dog";
  const uint32_t whole = crc32c(text.data(), text.size());
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const uint32_t first = crc32c(text.data(), cut);
    EXPECT_EQ(crc32c(text.data() + cut, text.size() - cut, first), whole);
    EXPECT_EQ(detail::crc32c_by_tables(text.data() + cut, text.size() - cut, first), whole);
  }
}

}  // namespace
}  // namespace pinion
