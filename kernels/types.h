// SPDX-License-Identifier: Apache-2.0
// The vocabulary kernels speak: element types, shapes and non-owning views.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "pinion/kernels/check.h"
#include "pinion/kernels/float_types.h"

namespace pinion {

enum class DType : uint8_t { f32, f64, bf16, f16, i64, i32, u8, boolean };

const char* name_of(DType t);  // "f32", as the documentation and error texts spell it

PINION_INLINE constexpr int64_t size_of(DType t) {
  constexpr int8_t sizes[] = {4, 8, 2, 2, 8, 4, 1, 1};
  return sizes[static_cast<int>(t)];
}
PINION_INLINE constexpr bool is_floating(DType t) { return t <= DType::f16; }

// clang-format off
template <class T> inline constexpr DType dtype_of = DType{255};
template <> inline constexpr DType dtype_of<float> = DType::f32;
template <> inline constexpr DType dtype_of<double> = DType::f64;
template <> inline constexpr DType dtype_of<BFloat16> = DType::bf16;
template <> inline constexpr DType dtype_of<Half> = DType::f16;
template <> inline constexpr DType dtype_of<int64_t> = DType::i64;
template <> inline constexpr DType dtype_of<int32_t> = DType::i32;
template <> inline constexpr DType dtype_of<uint8_t> = DType::u8;
template <> inline constexpr DType dtype_of<bool> = DType::boolean;
// clang-format on

// Extents of a dense row-major tensor; at most 6 dimensions, no heap. Construction checks what
// later arithmetic relies on: no negative extent, and an element count below 2^59, so that its size
// in bytes, and sums of a few sizes, fit 63 bits.
class Shape {
 public:
  static constexpr int kMaxRank = 6;
  static constexpr int64_t kMaxNumel = int64_t{1} << 59;

  Shape() = default;
  PINION_INLINE Shape(std::initializer_list<int64_t> dims)
      : Shape(dims.begin(), static_cast<int64_t>(dims.size())) {}
  PINION_INLINE Shape(const int64_t* dims, int64_t rank) : rank_(static_cast<int>(rank)) {
    if (rank > kMaxRank) [[unlikely]]
      fail_shape(dims, rank);
    int64_t n = 1;
    bool bad = false;
    for (int i = 0; i < rank_; ++i) {
      dims_[i] = dims[i];
      bad |= dims[i] < 0 || __builtin_mul_overflow(n, dims[i], &n);
    }
    if (bad || n > kMaxNumel) [[unlikely]]
      fail_shape(dims, rank);
  }

  PINION_INLINE int rank() const { return rank_; }
  // Extent i; -1 is the last. The index must lie in [-rank, rank).
  PINION_INLINE int64_t operator[](int i) const {
    const int at = i < 0 ? i + rank_ : i;
    if (static_cast<unsigned>(at) >= static_cast<unsigned>(rank_)) [[unlikely]]
      fail_index(i);
    return dims_[at];
  }
  PINION_INLINE int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  // Product of the extents from dimension `begin` up to but not including `end`.
  PINION_INLINE int64_t numel(int begin, int end) const {
    int64_t n = 1;
    for (int i = begin; i < end; ++i) n *= dims_[i];
    return n;
  }
  Shape with(int dim, int64_t extent) const;  // a copy with one extent replaced; -1 is the last
  Shape without(int dim) const;               // a copy with one dimension removed
  PINION_INLINE bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[i] != other.dims_[i]) return false;
    return true;
  }

 private:
  [[noreturn]] static void fail_shape(const int64_t* dims, int64_t rank);
  [[noreturn]] void fail_index(int i) const;

  int64_t dims_[kMaxRank] = {};
  int rank_ = 0;
};

[[noreturn]] void fail_dtype(const char* who, DType got, const char* expected);

// A dense row-major block that somebody else owns. Passed by value: 72 bytes, no reference count.
template <class Void>
struct BasicView {
  Void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;

  PINION_INLINE BasicView() = default;  // empty: an optional operand that is not there
  PINION_INLINE BasicView(Void* d, const Shape& s, DType t) : data(d), shape(s), dtype(t) {}
  template <class Other>
  requires(std::is_const_v<Void> && !std::is_const_v<Other>) PINION_INLINE
      BasicView(const BasicView<Other>& v)  // View -> ConstView
      : data(v.data), shape(v.shape), dtype(v.dtype) {}

  PINION_INLINE explicit operator bool() const { return data != nullptr; }
  PINION_INLINE int64_t numel() const { return shape.numel(); }
  PINION_INLINE int64_t cols() const { return shape.rank() ? shape[-1] : 1; }  // last dimension
  PINION_INLINE int64_t rows() const {  // all other dimensions folded
    return shape.numel(0, shape.rank() ? shape.rank() - 1 : 0);
  }
  template <class T>
  PINION_INLINE auto* as() const {
    using P = std::conditional_t<std::is_const_v<Void>, const T, T>;
    if (dtype != dtype_of<T>) [[unlikely]]
      fail_dtype("view", dtype, name_of(dtype_of<T>));
    return static_cast<P*>(data);
  }
};
using View = BasicView<void>;
using ConstView = BasicView<const void>;

// Calls f.template operator()<T>() with the C++ type of a floating dtype.
template <class F>
PINION_INLINE void for_float(DType t, const char* who, F&& f) {
  switch (t) {
    case DType::f32: return f.template operator()<float>();
    case DType::f64: return f.template operator()<double>();
    case DType::bf16: return f.template operator()<BFloat16>();
    case DType::f16: return f.template operator()<Half>();
    default: fail_dtype(who, t, "a floating type");
  }
}

// The same for every dtype.
template <class F>
PINION_INLINE void for_any(DType t, const char* who, F&& f) {
  switch (t) {
    case DType::i64: return f.template operator()<int64_t>();
    case DType::i32: return f.template operator()<int32_t>();
    case DType::u8: return f.template operator()<uint8_t>();
    case DType::boolean: return f.template operator()<bool>();
    default: return for_float(t, who, f);
  }
}

// The type a kernel computes in: float for the 16-bit types, else the type itself.
template <class T>
struct AccumulatorOf {
  using type = T;
};
template <>
struct AccumulatorOf<BFloat16> {
  using type = float;
};
template <>
struct AccumulatorOf<Half> {
  using type = float;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace pinion
