// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli; RFC 3720, appendix B.4): the checksum of checkpoints and of event files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pinion {

// Of the bytes that `crc` was taken of (0: none), followed by these. crc32c("123456789") is
// 0xe3069283. One instruction per 8 bytes where the CPU has SSE 4.2, else tables.
uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);

namespace detail {
uint32_t crc32c_by_tables(const void* data, size_t bytes, uint32_t crc);
}

}  // namespace pinion
