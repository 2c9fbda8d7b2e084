// SPDX-License-Identifier: Apache-2.0
// The two 16-bit floating types as storage: they convert to and from float and do no arithmetic.
// Conversions are branch-free integer arithmetic, so that the compiler vectorises loops of them; a
// GPU has instructions for them, which differ in NaN alone: those keep the bits of the integers.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define PINION_HD __host__ __device__
#else
#define PINION_HD
#endif
#define PINION_INLINE PINION_HD inline __attribute__((always_inline))

namespace pinion {

template <class To, class From>
PINION_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// bfloat16: the upper half of a float. Rounds to nearest, ties to even; NaN stays NaN.
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  PINION_INLINE explicit BFloat16(float value) {
    const uint32_t u = bit_cast<uint32_t>(value);
    const uint32_t quiet = (u >> 16) | 0x40u;
#ifdef __CUDA_ARCH__
    uint16_t rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
#else
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
#endif
    bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
  PINION_INLINE operator float() const {  // NOLINT: widening loses nothing
    return bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// IEEE 754 binary16. Rounds to nearest, ties to even; overflow gives infinity, subnormals are kept.
struct Half {
  uint16_t bits;

  Half() = default;
  PINION_INLINE explicit Half(float value) {
    const uint32_t u = bit_cast<uint32_t>(value);
    const uint32_t magnitude = u & 0x7fffffffu;
#ifdef __CUDA_ARCH__
    uint16_t rounded;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
    const uint32_t nan = 0x7e00u | ((u >> 16) & 0x8000u);
    bits = static_cast<uint16_t>(magnitude > 0x7f800000u ? nan : rounded);
#else
    // Subnormal results: adding 0.5 aligns the mantissa so that the float unit does the rounding.
    const uint32_t small =
        bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
    // Normal results: rebias the exponent by 112 and round the 13 dropped bits to even.
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < (113u << 23) ? small : normal;
    const uint32_t result = magnitude >= (143u << 23) ? special : finite;  // 143 = 127 + 16
    bits = static_cast<uint16_t>(result | ((u >> 16) & 0x8000u));
#endif
  }
  PINION_INLINE operator float() const {  // NOLINT: widening loses nothing
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t body = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    const uint32_t special = body + (224u << 23);
#ifdef __CUDA_ARCH__
    float exact;
    asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(bits));
    return body > (31u << 23) ? bit_cast<float>(special | sign) : exact;
#else
    const uint32_t normal = body + (112u << 23);
    const uint32_t small =
        bit_cast<uint32_t>(bit_cast<float>(body + (113u << 23)) - bit_cast<float>(113u << 23));
    const uint32_t finite = body < (1u << 23) ? small : normal;
    return bit_cast<float>((body >= (31u << 23) ? special : finite) | sign);
#endif
  }
};

}  // namespace pinion
