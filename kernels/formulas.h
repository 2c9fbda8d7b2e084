// SPDX-License-Identifier: Apache-2.0
// Element-wise formulas, once for every device: functors over a number type V, which is float or
// double anywhere and, on the CPU, also a GCC vector of either with one lane per element.
//
// In float the elementary functions are branch-free polynomials, so that they work on all lanes at
// once; in double, which exists to check the rest, they are the C library's. Coefficients are
// minimax fits made for this file (Lawson's reweighted least squares on 2000 Chebyshev nodes
// against 40-digit references, then rounded to float). The errors stated are the largest seen over
// dense sweeps of the whole range, with and without fused multiply-add;
// tests/kernels/formulas_test.cpp holds them.
#pragma once

#include "pinion/kernels/lanes.h"

namespace pinion::kernels {

namespace math {

// The C library's functions, lane by lane.
template <class V, class F>
PINION_INLINE V each_lane(V x, F f) {
  if constexpr (LaneTraits<V>::kCount == 1) {
    return f(x);
  } else {
    V y = {};
    for (int i = 0; i < LaneTraits<V>::kCount; ++i) y[i] = f(x[i]);
    return y;
  }
}
#define PINION_EACH_LANE(x, call) \
  each_lane(                      \
      x, [](double v) __attribute__((always_inline)) { return call; })

// --- float only: bits and the range reduction of exp ---

template <class V>
PINION_INLINE Int<V> bits_of(V x) {
  static_assert(sizeof(Number<V>) == 4);
  return bit_cast<Int<V>>(x);
}
template <class V>
PINION_INLINE V from_bits(Int<V> bits) {
  return bit_cast<V>(bits);
}
template <class V>
PINION_INLINE V absolute(V x) {
  return from_bits<V>(bits_of(x) & 0x7fffffff);
}
template <class V>
PINION_INLINE V to_number(Int<V> n) {
  if constexpr (LaneTraits<V>::kCount == 1) {
    return static_cast<V>(n);
  } else {
    return __builtin_convertvector(n, V);
  }
}
// x = n ln 2 + r with |r| <= ln(2) / 2, for |x| < 2^15. Adding kRound leaves n + 127 in the low
// bits, the biased exponent of 2^n. ln 2 is split in two, the first part so short that n times it
// is exact.
inline constexpr float kRound = 12582912.0f + 127;  // 1.5 2^23 + 127
template <class V>
struct Reduced {
  Int<V> biased;  // the low 9 bits
  V r;
  PINION_INLINE V power() const { return from_bits<V>(biased << 23); }  // 2^n, n in [-127, 128]
};
template <class V>
PINION_INLINE Reduced<V> reduce_by_ln2(V x) {
  const V shifted = x * 1.44269504f + kRound;
  const V n = shifted - kRound;
  return {bits_of(shifted), (x - n * 0.693359375f) - n * -2.12194440e-4f};
}
// (e^r - 1 - r) / r^2: fit of degree 4 on |r| <= ln(2) / 2; relative error of e^r 3.1e-9.
template <class V>
PINION_INLINE V exp_tail(V r) {
  V p = r * 0.0013882517f + 0.0083665475f;
  p = p * r + 0.041667201f;
  p = p * r + 0.16666543f;
  return p * r + 0.49999997f;
}
template <class V>
PINION_INLINE V exp_of_reduced(V r) {
  return (exp_tail(r) * r + 1.0f) * r + 1.0f;
}

// --- elementary functions ---

// e^x over the whole range, subnormal results included: 1.2 ulp.
template <class V>
PINION_INLINE V exp(V x) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    return PINION_EACH_LANE(x, ::exp(v));
  } else {
    const Reduced<V> split = reduce_by_ln2(at_least(at_most(x, 89), -105));
    // 2^n in two factors, so that only the last product rounds: their biased exponents add to n +
    // 254.
    const Int<V> both = split.biased - (0x4b400000 - 127), half = both >> 1;
    return exp_of_reduced(split.r) * from_bits<V>(half << 23) * from_bits<V>((both - half) << 23);
  }
}
// The same, but results below 2^-127 are 0 and those above 2^127.5 infinity: for sums and
// denominators. 1.2 ulp in between.
template <class V>
PINION_INLINE V exp_flushed(V x) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    return exp(x);
  } else {
    const Reduced<V> split = reduce_by_ln2(at_least(at_most(x, 89), -88));
    return exp_of_reduced(split.r) * split.power();
  }
}
// The same for x <= 0 (or NaN), which is what softmax has.
template <class V>
PINION_INLINE V exp_nonpositive(V x) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    return exp(x);
  } else {
    const Reduced<V> split = reduce_by_ln2(at_least(x, -88));
    return exp_of_reduced(split.r) * split.power();
  }
}

// ln x: -inf at 0, NaN below; subnormals are seen. 1 ulp.
template <class V>
PINION_INLINE V log(V x) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    return PINION_EACH_LANE(x, ::log(v));
  } else {
    const auto tiny = x < constant<V>(1.17549435e-38);  // the smallest normal number
    const V scaled = select(tiny, x * 8388608.0f, x);
    const Int<V> bits = bits_of(absolute(scaled));  // below 0 the result is NaN anyway
    const Int<V> e = (bits - 0x3f3504f3) >> 23;     // sqrt(1/2): the mantissa lies around 1
    const V f = from_bits<V>(bits - (e << 23)) - 1.0f;
    const V n = to_number<V>(e) - select(tiny, constant<V>(23), V{});
    // ln(1 + f) = f - f^2/2 + f^3 P(f): fit of degree 8, relative error 7.5e-10.
    V p = f * 0.067466408f - 0.11675652f;
    p = p * f + 0.11888162f;
    p = p * f - 0.12405589f;
    p = p * f + 0.14219552f;
    p = p * f - 0.16667996f;
    p = p * f + 0.20002119f;
    p = p * f - 0.25000009f;
    p = p * f + 0.33333313f;
    const V f2 = f * f;
    const V small = (p * f) * f2 + n * -2.12194440e-4f - f2 * 0.5f;
    const V y = n * 0.693359375f + (f + small);
    const V infinity = constant<V>(__builtin_inf());
    const V outside = select(x < V{}, constant<V>(__builtin_nan("")), -infinity);
    return select(x <= V{}, outside, select(x < infinity, y, x));
  }
}

// tanh x = (e^2|x| - 1) / (e^2|x| + 1) with the sign of x, the numerator free of cancellation: 2
// ulp.
template <class V>
PINION_INLINE V tanh(V x) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    return PINION_EACH_LANE(x, ::tanh(v));
  } else {
    const V a = at_most(absolute(x), 10);  // tanh 10 is 1 in float
    const Reduced<V> split = reduce_by_ln2(a + a);
    const V scale = split.power(), r = split.r;
    const V minus_one = scale * (exp_tail(r) * (r * r) + r) + (scale - 1.0f);
    return from_bits<V>(bits_of(minus_one / (minus_one + 2.0f)) | (bits_of(x) & INT32_MIN));
  }
}

// 1 / (1 + e^-x): 2 ulp, and 0 where that is below 2^-127.
template <class V>
PINION_INLINE V sigmoid(V x) {
  return 1.0f / (1.0f + exp_flushed(-x));
}

// The upper tail of the standard normal distribution, erfc(a / sqrt 2) / 2, and its density
// e^(-a^2/2) / sqrt(2 pi), at a = |x|: 6 ulp down to 2^-126, and 0 below.
template <class V>
struct NormalTail {
  V a, tail, density;
};
template <class V>
PINION_INLINE NormalTail<V> normal_tail(V x) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    const V a = at_most(larger(x, -x), 40);  // where both are 0, and still finite
    return {a, 0.5 * PINION_EACH_LANE(a, ::erfc(v * 0.70710678118654752)),
            0.39894228040143268 * exp(a * a * -0.5)};
  } else {
    const V a = at_most(absolute(x), 13.27);  // where e^(-a^2/2) is flushed to 0
    // a^2 in two parts, the first exact: an error of the exponent is a relative error of the
    // result.
    const V head = from_bits<V>(bits_of(a) & ~0xfff);
    const V square = head * head, rest = (a - head) * (a + head);
    // e^(-a^2/2) = 2^n e^(-s/2) with a^2 = s - 2 n ln 2: as in reduce_by_ln2, all doubled.
    const V shifted = square * -0.72134752f + kRound;
    const V n = shifted - kRound;
    const V s = n * -4.24388880e-4f + (n * 1.38671875f + square) + rest;
    // Fit of degree 6 on |s| <= ln(2) + 0.06, relative error 6.2e-9.
    V e = s * 2.1559790e-5f - 0.00026176948f;
    e = e * s + 0.0026043274f;
    e = e * s - 0.020833060f;
    e = e * s + 0.12499997f;
    e = (e * s - 0.5f) * s + 1.0f;
    e = e * from_bits<V>(bits_of(shifted) << 23);
    // tail / e^(-a^2/2) in w = (a - 3) / (a + 3): fit of degree 9 on a <= 13.3, 6.6e-9.
    const V w = (a - 3.0f) / (a + 3.0f);
    V p = w * 5.4150863e-5f + 0.00011603739f;
    p = p * w - 0.00033991134f;
    p = p * w - 0.00098418281f;
    p = p * w + 0.0029047027f;
    p = p * w + 0.0061321831f;
    p = p * w - 0.046213314f;
    p = p * w + 0.12322502f;
    p = p * w - 0.20640261f;
    p = p * w + 0.12151395f;
    return {a, e * p, e * 0.39894228f};
  }
}

// cos and sin of 2 pi u for u in [0, 1): the reduction to |angle| <= pi / 4 is exact. 1.2e-7
// absolute.
template <class V>
struct CosSin {
  V cos, sin;
};
template <class V>
PINION_INLINE CosSin<V> cos_sin_turn(V u) {
  if constexpr (std::is_same_v<Number<V>, double>) {
    const V angle = u * 6.283185307179586477;
    return {PINION_EACH_LANE(angle, ::cos(v)), PINION_EACH_LANE(angle, ::sin(v))};
  } else {
    const V shifted = u * 4.0f + 12582912.0f;  // 1.5 2^23: the nearest integer in the low bits
    const Int<V> quadrant = bits_of(shifted);
    const V r = u * 4.0f - (shifted - 12582912.0f), r2 = r * r;
    // sin and cos of (pi / 2) r on |r| <= 1/2: fits with relative errors 3.2e-9 and 5.6e-11.
    V s = r2 * -0.0046016593f + 0.079680033f;
    s = (s * r2 - 0.64596349f) * r2 + 1.5707964f;
    s = s * r;
    V c = r2 * 0.00090336316f - 0.020859936f;
    c = (c * r2 + 0.25366917f) * r2 - 1.2337005f;
    c = c * r2 + 1.0f;
    const auto odd = (quadrant & 1) != 0;
    const Int<V> cos_sign = (quadrant + 1) << 30 & INT32_MIN, sin_sign = quadrant << 30 & INT32_MIN;
    return {from_bits<V>(bits_of(select(odd, s, c)) ^ cos_sign),
            from_bits<V>(bits_of(select(odd, c, s)) ^ sin_sign)};
  }
}
#undef PINION_EACH_LANE

// Box & Muller 1958: two independent uniform numbers, in (0, 1] and [0, 1), give two normal ones.
template <class V>
PINION_INLINE CosSin<V> box_muller(V first, V second) {
  const V radius = sqrt(log(first) * static_cast<Number<V>>(-2));
  const auto [cos, sin] = cos_sin_turn(second);
  return {radius * cos, radius * sin};
}

}  // namespace math

// --- functors: what kernels.h says of each ---

namespace formulas {

// clang-format off
#define PINION_FORMULA1(Name, x, ...) \
  struct Name { template <class V> PINION_INLINE V operator()(V x) const { __VA_ARGS__ } };
#define PINION_FORMULA2(Name, a, b, ...) \
  struct Name { template <class V> PINION_INLINE V operator()(V a, V b) const { __VA_ARGS__ } };
#define PINION_FORMULA3(Name, a, b, c, ...) \
  struct Name { template <class V> PINION_INLINE V operator()(V a, V b, V c) const { __VA_ARGS__ }};

PINION_FORMULA1(Identity, x, return x;)
PINION_FORMULA2(Add, a, b, return a + b;)
PINION_FORMULA2(Subtract, a, b, return a - b;)
PINION_FORMULA2(Multiply, a, b, return a * b;)
PINION_FORMULA2(Divide, a, b, return a / b;)
PINION_FORMULA3(DivideBackwardB, a, b, dy, return -dy * (a / b) / b;)  // no b^2: it may overflow
PINION_FORMULA1(Relu, x, return math::larger(V{}, x);)
PINION_FORMULA2(ReluBackward, y, dy, return math::select(y > V{}, dy, V{});)
PINION_FORMULA1(Sigmoid, x, return math::sigmoid(x);)
PINION_FORMULA2(SigmoidBackward, y, dy, return dy * y * (1.0f - y);)
PINION_FORMULA1(Tanh, x, return math::tanh(x);)
PINION_FORMULA2(TanhBackward, y, dy, return dy * (1.0f - y * y);)
PINION_FORMULA1(Exp, x, return math::exp(x);)
PINION_FORMULA1(Log, x, return math::log(x);)
// clang-format on
#undef PINION_FORMULA1
#undef PINION_FORMULA2
#undef PINION_FORMULA3

struct Affine {
  double scale, shift;
  template <class V>
  PINION_INLINE V operator()(V x) const {
    return x * static_cast<Number<V>>(scale) + static_cast<Number<V>>(shift);
  }
};
struct Clamp {
  double low, high;
  template <class V>
  PINION_INLINE V operator()(V x) const {
    return math::at_most(math::at_least(x, low), high);
  }
};

// GELU (Hendrycks & Gimpel 2016) x cdf(x), and its slope cdf(x) + x density(x), both by the upper
// tail: cdf(x) is tail(-x) below 0 and 1 - tail(x) above.
struct Gelu {
  template <class V>
  PINION_INLINE V operator()(V x) const {
    const auto at = math::normal_tail(x);
    return math::larger(V{}, x) - at.a * at.tail;
  }
};
struct GeluBackward {
  template <class V>
  PINION_INLINE V operator()(V x, V dy) const {
    const auto at = math::normal_tail(x);
    const V from_zero = at.a * at.density - at.tail;
    return dy * math::select(x > V{}, 1.0f + from_zero, -from_zero);
  }
};
// The tanh form x (1 + tanh(k (x + c x^3))) / 2, k = sqrt(2 / pi), c = 0.044715, which is
// x sigmoid(2 k (x + c x^3)). Outside |x| = 40 the factor x is held, so that infinity times 0 gives
// the limit and not NaN.
struct GeluTanh {
  template <class V>
  PINION_INLINE V operator()(V x) const {
    using N = Number<V>;
    const V slope = x * x * static_cast<N>(2 * 0.79788456080286536 * 0.044715) +
                    static_cast<N>(2 * 0.79788456080286536);
    return math::at_least(x, -40) * math::sigmoid(x * slope);
  }
};
struct GeluTanhBackward {
  template <class V>
  PINION_INLINE V operator()(V x, V dy) const {
    using N = Number<V>;
    const V held = math::at_most(math::at_least(x, -40), 40);
    const V x2 = held * held;
    constexpr double k2 = 2 * 0.79788456080286536;
    // e = e^-u for the sigmoid's argument u, held where e and 1 / e are finite. 1 - s is e s: the
    // difference would have few digits left where s is near 1.
    const V u = held * (x2 * static_cast<N>(k2 * 0.044715) + static_cast<N>(k2));
    const V e = math::exp_flushed(-math::at_most(math::at_least(u, -80), 80));
    const V s = 1.0f / (1.0f + e);
    const V inner = held * (x2 * static_cast<N>(3 * k2 * 0.044715) + static_cast<N>(k2));
    return dy * (s + inner * s * (e * s));
  }
};

// keep ? x / (1 - p) : 0.
struct Dropout {
  double scale;  // 1 / (1 - p)
  template <class V, class Mask>
  PINION_INLINE V operator()(V x, Mask keep) const {
    return math::select(keep, x * static_cast<Number<V>>(scale), V{});
  }
};

}  // namespace formulas
}  // namespace pinion::kernels
