// SPDX-License-Identifier: Apache-2.0
// Loops over blocks that stay in the first cache: written so that the compiler vectorises them, and
// compiled twice, for every x86-64 and for AVX2. Lanes never mix, so both give the same bits.
#include "pinion/dist/group/reduce.h"

#include <cstring>
#include <type_traits>

#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

#define PINION_FORCE_INLINE inline __attribute__((always_inline))

struct Sum {
  template <class A>
  static PINION_FORCE_INLINE A of(A a, A b) {
    if constexpr (std::is_integral_v<A>) {
      using U = std::make_unsigned_t<A>;  // wraps instead of overflowing
      return static_cast<A>(static_cast<U>(static_cast<U>(a) + static_cast<U>(b)));
    } else {
      return a + b;
    }
  }
};
struct Min {
  template <class A>
  static PINION_FORCE_INLINE A of(A a, A b) {
    return (a < b) | (a != a) ? a : b;
  }
};
struct Max {
  template <class A>
  static PINION_FORCE_INLINE A of(A a, A b) {
    return (a > b) | (a != a) ? a : b;
  }
};

struct Operands {
  std::span<const void* const> in;
  std::span<void* const> out;
  int64_t count;
  int divide_by;  // 1: not a mean

  template <class T>
  const T* input(size_t k, int64_t at) const {
    return static_cast<const T*>(in[k]) + at;
  }
  template <class T>
  T* output(size_t k, int64_t at) const {
    return static_cast<T*>(out[k]) + at;
  }
};

template <class T, class Op>
PINION_FORCE_INLINE void reduce_blocks(const Operands& o) {
  using A = Accumulator<T>;
  constexpr int64_t kBlock = 4096 / sizeof(A);
  alignas(64) A sum[kBlock];
  for (int64_t at = 0; at < o.count; at += kBlock) {
    const int64_t n = o.count - at < kBlock ? o.count - at : kBlock;
    const T* first = o.input<T>(0, at);
    for (int64_t i = 0; i < n; ++i) sum[i] = static_cast<A>(first[i]);
    for (size_t k = 1; k < o.in.size(); ++k) {
      const T* next = o.input<T>(k, at);
      for (int64_t i = 0; i < n; ++i) sum[i] = Op::of(sum[i], static_cast<A>(next[i]));
    }
    if constexpr (!std::is_integral_v<T>)
      if (o.divide_by != 1) {
        const A divisor = static_cast<A>(o.divide_by);
        for (int64_t i = 0; i < n; ++i) sum[i] /= divisor;
      }
    T* result = o.output<T>(0, at);
    for (int64_t i = 0; i < n; ++i) result[i] = static_cast<T>(sum[i]);
    for (size_t k = 1; k < o.out.size(); ++k)
      std::memcpy(o.output<T>(k, at), result, static_cast<size_t>(n) * sizeof(T));
  }
}

// The most frequent case, two ranks that add f32: one pass from memory to memory. What is read will
// be written, so it is fetched for that; else the other rank's core would have to be asked twice.
PINION_FORCE_INLINE void add_two(const Operands& o) {
  using Half = float __attribute__((vector_size(32), aligned(4), may_alias));  // of a cache line
  constexpr int64_t kHalf = sizeof(Half) / sizeof(float), kAhead = 8 * kHalf;
  const float *a = o.input<float>(0, 0), *b = o.input<float>(1, 0);
  float *x = o.output<float>(0, 0), *y = o.output<float>(o.out.size() - 1, 0);
  const float scale = o.divide_by == 2 ? 0.5F : 1.0F;  // exact, as the division would be
  int64_t i = 0;
  for (; i + 2 * kHalf <= o.count; i += 2 * kHalf) {  // outputs may be inputs, line for line
    __builtin_prefetch(x + i + kAhead, 1);
    __builtin_prefetch(y + i + kAhead, 1);
    const auto *p = reinterpret_cast<const Half*>(a + i), *q = reinterpret_cast<const Half*>(b + i);
    auto *s = reinterpret_cast<Half*>(x + i), *t = reinterpret_cast<Half*>(y + i);
    const Half first = (p[0] + q[0]) * scale, second = (p[1] + q[1]) * scale;
    s[0] = first, s[1] = second;
    t[0] = first, t[1] = second;
  }
  for (; i < o.count; ++i) x[i] = y[i] = (a[i] + b[i]) * scale;
}

template <class T, class Op>
PINION_FORCE_INLINE void reduce_any(const Operands& o) {
  if constexpr (std::is_same_v<T, float> && std::is_same_v<Op, Sum>)
    if (o.in.size() == 2 && o.out.size() <= 2) return add_two(o);
  reduce_blocks<T, Op>(o);
}

template <class T, class Op>
void reduce_plain(const Operands& o) {
  reduce_any<T, Op>(o);
}

#ifdef __x86_64__
template <class T, class Op>
[[gnu::target("avx2,prfchw")]] void reduce_avx2(const Operands& o) {
  reduce_any<T, Op>(o);
}
bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
}
#endif

template <class T, class Op>
void reduce_as(const Operands& o) {
#ifdef __x86_64__
  if (has_avx2()) return reduce_avx2<T, Op>(o);
#endif
  reduce_plain<T, Op>(o);
}

}  // namespace

void check_reducible(ReduceOp op, DType dtype) {
  PINION_CHECK(dtype != DType::boolean, name_of(op), ": expected numbers, got ", dtype);
  PINION_CHECK(op != ReduceOp::mean || is_floating(dtype), "mean: expected a floating dtype, got ",
               dtype);
}

void reduce(ReduceOp op, DType dtype, std::span<const void* const> in, std::span<void* const> out,
            int64_t count) {
  check_reducible(op, dtype);
  const Operands o{in, out, count, op == ReduceOp::mean ? static_cast<int>(in.size()) : 1};
  for_any(dtype, "reduce", [&]<class T>() {
    if constexpr (!std::is_same_v<T, bool>) {
      if (op == ReduceOp::min) return reduce_as<T, Min>(o);
      if (op == ReduceOp::max) return reduce_as<T, Max>(o);
      reduce_as<T, Sum>(o);
    }
  });
}

}  // namespace pinion::dist
