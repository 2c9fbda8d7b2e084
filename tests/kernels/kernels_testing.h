// SPDX-License-Identifier: Apache-2.0
// What tests of kernels share: typed arrays that are written and read as doubles, and the rungs and
// dtypes to go through.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "pinion/kernels/cpu/isa.h"
#include "pinion/kernels/cpu/parallel.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInf = std::numeric_limits<double>::infinity();

// A dense block of one dtype. Values go in and out as doubles, rounded to the dtype.
class Block {
 public:
  Block(DType t, const Shape& shape, double value = 0) : dtype_(t), shape_(shape) {
    bytes_.resize(static_cast<size_t>(shape.numel() * size_of(t)) + 64);  // never empty
    for (int64_t i = 0; i < numel(); ++i) set(i, value);
  }
  // Repeatable values of a few binades, both signs.
  static Block random(DType t, const Shape& shape, uint32_t seed, double scale = 2) {
    Block b(t, shape);
    std::mt19937 engine(seed);
    for (int64_t i = 0; i < b.numel(); ++i)
      b.set(i, scale * (static_cast<double>(engine()) / 2147483648.0 - 1));
    return b;
  }

  int64_t numel() const { return shape_.numel(); }
  View view() { return {bytes_.data(), shape_, dtype_}; }
  ConstView view() const { return {bytes_.data(), shape_, dtype_}; }
  double operator[](int64_t i) const {
    double out = 0;
    for_any(dtype_, "Block",
            [&]<class T>() { out = static_cast<double>(static_cast<Accumulator<T>>(at<T>(i))); });
    return out;
  }
  void set(int64_t i, double v) {
    for_any(dtype_, "Block", [&]<class T>() {
      const T value = T(static_cast<Accumulator<T>>(v));
      std::memcpy(bytes_.data() + i * static_cast<int64_t>(sizeof(T)), &value, sizeof value);
    });
  }
  bool same_bits(const Block& other) const { return bytes_ == other.bytes_; }

 private:
  template <class T>
  T at(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + i * static_cast<int64_t>(sizeof(T)), sizeof value);
    return value;
  }

  DType dtype_;
  Shape shape_;
  std::vector<char> bytes_;
};

inline std::vector<Isa> rungs() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
    if (isa <= detect_isa()) all.push_back(isa);
  return all;
}
inline constexpr DType kFloats[] = {DType::f32, DType::f64, DType::bf16, DType::f16};

// Relative error of one rounding to the dtype, times a small allowance for the steps before it.
inline double tolerance(DType t, double steps = 4) {
  switch (t) {
    case DType::f64: return steps * 1e-15;
    case DType::bf16: return 4.0e-3 + steps * 1e-7;  // 2^-8, rounded once
    case DType::f16: return 5.0e-4 + steps * 1e-7;   // 2^-11
    default: return steps * 1.2e-7;
  }
}

// got[i] against want(i): relative, or absolute below `floor`.
inline void expect_near(const Block& got, const std::function<double(int64_t)>& want, double rel,
                        double floor, const std::string& what) {
  for (int64_t i = 0; i < got.numel(); ++i) {
    const double w = want(i), g = got[i];
    if (std::isnan(w) && std::isnan(g)) continue;
    ASSERT_LE(std::abs(g - w), rel * std::max(std::abs(w), floor))
        << what << " at " << i << ": " << g << ", not " << w;
  }
}

inline std::string label(const char* name, Isa isa, DType t, int64_t n = -1) {
  return std::string(name) + " on rung " + std::to_string(static_cast<int>(isa)) + ", " +
         name_of(t) + ", n = " + std::to_string(n);
}

}  // namespace pinion::kernels
