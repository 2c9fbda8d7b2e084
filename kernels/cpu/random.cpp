// SPDX-License-Identifier: Apache-2.0
// Random numbers: element i is a function of the key and i alone (kernels/philox.h).
#include "pinion/kernels/cpu/map.h"
#include "pinion/kernels/cpu/philox_lanes.h"
#include "pinion/kernels/cpu/row.h"

namespace pinion::kernels::PINION_RUNG {
namespace {

// Calls f(i, count, words) for every group of elements, count < kGroup only for the last; words are
// those of elements i, i + 1, ... in order.
template <class F>
PINION_INLINE void for_words(const CpuContext& ctx, int64_t n, const PhiloxKey& key, F f) {
  static_assert(kParallelGrain % kGroup == 0);
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    for (int64_t i = begin; i < end; i += kGroup) {
      FourWords words = philox_lanes(key, static_cast<uint64_t>(i) / 4);
      to_element_order(words.v);
      f(i, smaller(kGroup, end - i), words.v);
    }
  });
}

void normal_f32(const CpuContext& ctx, const PhiloxKey& key, float mean, float std, int64_t n,
                float* y) {
  constexpr int64_t L = kLanes<float>;
  for_chunks(ctx, n, kParallelGrain, [=](int64_t begin, int64_t end, int64_t) {
    for (int64_t i = begin; i < end; i += kGroup) {
      const FourWords words = philox_lanes(key, static_cast<uint64_t>(i) / 4);
      Vec<float> z[4];
      for (int pair = 0; pair < 4; pair += 2) {
        const auto first = positive01(__builtin_convertvector(words.v[pair], Vec<float>));
        const auto second = __builtin_convertvector(words.v[pair + 1] >> 8, Vec<float>) * 0x1p-24f;
        const auto [cos, sin] = math::box_muller(first, second);
        z[pair] = cos * std + mean;
        z[pair + 1] = sin * std + mean;
      }
      to_element_order(z);
      for (int64_t v = 0; v < 4 && i + v * L < end; ++v) {
        const int64_t count = smaller(L, end - i - v * L);
        count == L ? store(y + i + v * L, z[v]) : store_part(y + i + v * L, z[v], count);
      }
    }
  });
}

// double is for tests: the same uniform numbers, the C library's functions.
void normal_f64(const PhiloxKey& key, double mean, double std, int64_t n, double* y) {
  for (int64_t i = 0; i < n; i += 2) {
    const Philox4 words = philox(key, static_cast<uint64_t>(i) / 4);
    const auto [cos, sin] = math::box_muller<double>(positive01(static_cast<float>(words.v[i % 4])),
                                                     uniform01(words.v[i % 4 + 1]));
    y[i] = mean + std * cos;
    if (i + 1 < n) y[i + 1] = mean + std * sin;
  }
}

template <class T>
void dropout_of(const CpuContext& ctx, const T* x, double keep, const PhiloxKey& key, int64_t n,
                T* y) {
  using A = Accumulator<T>;
  const formulas::Dropout f{1 / keep};
  const uint32_t threshold = bernoulli_threshold(keep);
  for_words(ctx, n, key, [=](int64_t i, int64_t count, const Words* words) {
    // Packets of doubles have half the lanes of the words; walk through memory.
    uint32_t word[kGroup];
    __builtin_memcpy(word, words, sizeof word);
    typedef uint32_t SomeWords __attribute__((vector_size(kPacket<T> * 4)));
    for (int64_t at = 0; at < count; at += kPacket<T>) {
      SomeWords w;
      __builtin_memcpy(&w, word + at, sizeof w);
      const auto mask = __builtin_convertvector(w < threshold, Int<Vec<A>>);
      const int64_t left = smaller(kPacket<T>, count - at);
      if (left == kPacket<T>) {
        store_packet(y + i + at, f(load_packet(x + i + at), mask));
      } else {
        store_part(y + i + at, f(load_part(x + i + at, left), mask), left);
      }
    }
  });
}

}  // namespace

void uniform(const CpuContext& ctx, View x, PhiloxKey key, double lo, double hi) {
  const auto draw = [&]<class T>(T low, T high, T span) {
    T* y = x.as<T>();
    for_words(ctx, x.numel(), key, [=](int64_t i, int64_t count, const Words* words) {
      uint32_t word[kGroup];
      __builtin_memcpy(word, words, sizeof word);
      for (int64_t k = 0; k < count; ++k) {
        // A float's product is exact in double, so that every rung and device rounds alike. The
        // bounds are widened here only: outside the loop GCC 12's vectoriser forgets that they had
        // been rounded to float.
        const double at = static_cast<double>(span) * uniform01(word[k]);
        const T value = static_cast<T>(static_cast<double>(low) + at);
        y[i + k] = value < high ? value : low;  // rounding may reach the open end
      }
    });
  };
  if (x.dtype == DType::f64) return draw(lo, hi, hi - lo);
  draw(static_cast<float>(lo), static_cast<float>(hi), static_cast<float>(hi - lo));
}

void normal(const CpuContext& ctx, View x, PhiloxKey key, double mean, double std) {
  if (x.dtype == DType::f64) return normal_f64(key, mean, std, x.numel(), x.as<double>());
  normal_f32(ctx, key, static_cast<float>(mean), static_cast<float>(std), x.numel(), x.as<float>());
}

void dropout(const CpuContext& ctx, ConstView x, double p, PhiloxKey key, View y) {
  for_float(x.dtype, "dropout", [&]<class T>() {
    if (p <= 0) {
      map(ctx, y.numel(), formulas::Affine{1, 0}, y.as<T>(), x.as<T>());
    } else {
      dropout_of(ctx, x.as<T>(), 1 - p, key, y.numel(), y.as<T>());
    }
  });
}

}  // namespace pinion::kernels::PINION_RUNG
