// SPDX-License-Identifier: Apache-2.0
// Moves elements between memory and registers of the type they are computed in: 16-bit storage is
// widened to float on loading and rounded on storing, everything else goes as it is.
#pragma once

#include "pinion/kernels/cpu/rung.h"
#include "pinion/kernels/formulas.h"

#ifdef __SSE2__
#include <immintrin.h>  // 16-bit conversion and streaming stores, which have no plain spelling
#endif

// Anonymous, so that every rung file has its own copy and none is emitted as a weak symbol.
namespace pinion::kernels::PINION_RUNG {
namespace {

// The register that elements of storage type T are computed in, and its number of lanes.
template <class T>
using Packet = Vec<Accumulator<T>>;
template <class T>
inline constexpr int64_t kPacket = kLanes<Accumulator<T>>;

// As many 16-bit words, or bytes, as a register of floats has lanes.
typedef uint16_t HalfWords __attribute__((vector_size(PINION_VECTOR_BYTES / 2)));

// Words below 2^16 as 16-bit words.
PINION_INLINE HalfWords low_halves(Vec<uint32_t> words) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const auto w = (__m256i)words;
  return (HalfWords)_mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
#else
  return __builtin_convertvector(words, HalfWords);
#endif
}

PINION_INLINE HalfWords round_to_bf16(Vec<float> x) {
  const auto u = bit_cast<Vec<uint32_t>>(x);
  const Vec<uint32_t> rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return low_halves(x == x ? rounded : (u >> 16) | 0x40u);
}

PINION_INLINE Vec<float> widen_f16(HalfWords h) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h);
#elif defined(__F16C__)
  return (Vec<float>)_mm256_cvtph_ps((__m128i)h);
#else
  Vec<float> x = {};
  for (int64_t i = 0; i < kLanes<float>; ++i) x[i] = float(bit_cast<Half>(h[i]));
  return x;
#endif
}
PINION_INLINE HalfWords round_to_f16(Vec<float> x) {
#if defined(__AVX512F__)
  return (HalfWords)_mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (HalfWords)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
  HalfWords h = {};
  for (int64_t i = 0; i < kLanes<float>; ++i) h[i] = Half(x[i]).bits;
  return h;
#endif
}

template <class T>
PINION_INLINE Packet<T> load_packet(const T* p) {
  if constexpr (sizeof(T) == 2) {
    HalfWords h;
    __builtin_memcpy(&h, p, sizeof h);
    if constexpr (std::is_same_v<T, Half>) {
      return widen_f16(h);
    } else {
      return bit_cast<Vec<float>>(__builtin_convertvector(h, Vec<uint32_t>) << 16);
    }
  } else {
    return load(p);
  }
}
template <class T>
PINION_INLINE auto rounded(Packet<T> x) {
  if constexpr (std::is_same_v<T, Half>) {
    return round_to_f16(x);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return round_to_bf16(x);
  } else {
    return x;
  }
}
template <class T>
PINION_INLINE void store_packet(T* p, Packet<T> x) {
  const auto r = rounded<T>(x);
  __builtin_memcpy(p, &r, sizeof r);
}

// Stores past the caches; p is aligned to the size of what is stored. end_streaming() orders the
// stores before whatever publishes them to another thread.
template <class T>
PINION_INLINE void stream_packet(T* p, Packet<T> x) {
  const auto r = rounded<T>(x);
#ifdef __AVX512F__
  if constexpr (sizeof r == 64) return _mm512_stream_si512((__m512i*)p, (__m512i)r);
#endif
#ifdef __AVX2__
  if constexpr (sizeof r == 32) return _mm256_stream_si256((__m256i*)p, (__m256i)r);
#endif
#ifdef __SSE2__
  if constexpr (sizeof r == 16) return _mm_stream_si128((__m128i*)p, (__m128i)r);
#endif
  __builtin_memcpy(p, &r, sizeof r);
}
PINION_INLINE void end_streaming() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Outputs of this size and more go past the caches, where the next kernel would not find them
// anyway.
inline constexpr int64_t kStreamBytes = int64_t{8} << 20;

// Whether rows of `row` elements, `rows` of them from y on, are worth streaming and aligned for it.
template <class T>
PINION_INLINE bool worth_streaming(const T* y, int64_t rows, int64_t row) {
  const int64_t bytes = row * static_cast<int64_t>(sizeof(T));
  return rows * bytes >= kStreamBytes &&
         (reinterpret_cast<uintptr_t>(y) | static_cast<uintptr_t>(rows > 1 ? bytes : 0)) %
                 PINION_VECTOR_BYTES ==
             0;
}
template <class T>
PINION_INLINE void put_packet(T* p, Packet<T> x, bool stream) {
  stream ? stream_packet(p, x) : store_packet(p, x);
}

// lane < n, as a comparison gives it.
template <class A>
PINION_INLINE Int<Vec<A>> lanes_below(int64_t n) {
  Int<Vec<A>> lane = {};
  for (int i = 0; i < kLanes<A>; ++i) lane[i] = i;
  return lane < static_cast<Number<Int<Vec<A>>>>(n);
}

// The first n <= kPacket<T> lanes; the others read as `rest`, and are not stored.
template <class T>
PINION_INLINE Packet<T> load_part(const T* p, int64_t n, Accumulator<T> rest = 0) {
#ifdef __AVX2__  // masked loads touch no memory outside the mask
  if constexpr (sizeof(T) >= 4) {
    const auto mask = lanes_below<T>(n);
    Vec<T> x;
#ifdef __AVX512F__
    if constexpr (sizeof(T) == 4)
      x = (Vec<T>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
    else
      x = (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
#else
    if constexpr (sizeof(T) == 4)
      x = (Vec<T>)_mm256_maskload_ps(p, (__m256i)mask);
    else
      x = (Vec<T>)_mm256_maskload_pd(p, (__m256i)mask);
#endif
    return mask ? x : splat(rest);
  }
#endif
  Accumulator<T> lanes[kPacket<T>];
  for (auto& lane : lanes) lane = rest;
  for (int64_t i = 0; i < n; ++i) lanes[i] = static_cast<Accumulator<T>>(p[i]);
  return load(lanes);
}
template <class T>
PINION_INLINE void store_part(T* p, Packet<T> x, int64_t n) {
#ifdef __AVX2__
  if constexpr (sizeof(T) >= 4) {
#ifdef __AVX512F__
    if constexpr (sizeof(T) == 4)
      return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)x);
    else
      return _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)x);
#else
    // In pieces of the register, its half, a quarter: masked stores are slow on some CPUs.
#pragma GCC unroll 4
    for (int64_t piece = kPacket<T>; piece > 0; piece /= 2) {
      if (!(n & piece)) continue;
      __builtin_memcpy(p, &x, static_cast<size_t>(piece) * sizeof(T));
      x = upper_half<T>(x, piece);
      p += piece;
    }
    return;
#endif
  }
#endif
  T lanes[kPacket<T>];
  store_packet(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// A mask of bytes, read as the lanes of a comparison of A's.
template <class A>
struct MaskCursor {
  const bool* p;
  PINION_INLINE MaskCursor operator+(int64_t i) const { return {p + i}; }
};
template <class A>
PINION_INLINE auto load_packet(MaskCursor<A> m) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<A>)));
  Bytes bytes;
  __builtin_memcpy(&bytes, m.p, sizeof bytes);
  return __builtin_convertvector(bytes, Int<Vec<A>>) != 0;
}
template <class A>
PINION_INLINE auto load_part(MaskCursor<A> m, int64_t n) {
  bool bytes[kLanes<A>] = {};
  for (int64_t i = 0; i < n; ++i) bytes[i] = m.p[i];
  return load_packet(MaskCursor<A>{bytes});
}

// The value of a view that holds one floating element.
PINION_INLINE double read_number(const ConstView& s) {
  switch (s.dtype) {
    case DType::f64: return *static_cast<const double*>(s.data);
    case DType::bf16: return float(*static_cast<const BFloat16*>(s.data));
    case DType::f16: return float(*static_cast<const Half*>(s.data));
    default: return *s.as<float>();
  }
}

}  // namespace
}  // namespace pinion::kernels::PINION_RUNG
