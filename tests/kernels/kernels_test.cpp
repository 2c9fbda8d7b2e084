// SPDX-License-Identifier: Apache-2.0
// Kernels against plain loops in double: every rung and dtype, lengths around the register widths,
// operands in place, NaN and ties.
#include "kernels_testing.h"

namespace pinion::kernels {
namespace {

constexpr int64_t kLengths[] = {0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 100, 1023};

struct Elementwise {
  const char* name;
  std::function<void(const CpuContext&, ConstView a, ConstView b, View y)> run;
  std::function<double(double a, double b)> want;
  double steps = 4;
};

const std::vector<Elementwise>& elementwise() {
  static const std::vector<Elementwise> all = {
      {"add", [](auto& c, auto a, auto b, auto y) { add(c, a, b, y); },
       [](double a, double b) { return a + b; }},
      {"subtract", [](auto& c, auto a, auto b, auto y) { subtract(c, a, b, y); },
       [](double a, double b) { return a - b; }},
      {"multiply", [](auto& c, auto a, auto b, auto y) { multiply(c, a, b, y); },
       [](double a, double b) { return a * b; }},
      {"divide", [](auto& c, auto a, auto b, auto y) { divide(c, a, b, y); },
       [](double a, double b) { return a / b; }},
      {"divide_backward_b",
       [](auto& c, auto a, auto b, auto y) { divide_backward_b(c, a, b, a, y); },
       [](double a, double b) { return -a * a / (b * b); }},
      {"affine", [](auto& c, auto a, auto, auto y) { affine(c, a, 1.5, -0.25, y); },
       [](double a, double) { return 1.5 * a - 0.25; }},
      {"clamp", [](auto& c, auto a, auto, auto y) { clamp(c, a, -0.5, 0.75, y); },
       [](double a, double) { return std::min(std::max(a, -0.5), 0.75); }},
      {"relu_forward", [](auto& c, auto a, auto, auto y) { relu_forward(c, a, y); },
       [](double a, double) { return a > 0 ? a : 0; }},
      {"relu_backward", [](auto& c, auto a, auto b, auto y) { relu_backward(c, a, b, y); },
       [](double a, double b) { return a > 0 ? b : 0; }},
      {"sigmoid_forward", [](auto& c, auto a, auto, auto y) { sigmoid_forward(c, a, y); },
       [](double a, double) { return 1 / (1 + std::exp(-a)); }},
      {"sigmoid_backward", [](auto& c, auto a, auto b, auto y) { sigmoid_backward(c, a, b, y); },
       [](double a, double b) { return b * a * (1 - a); }, 8},
      {"tanh_forward", [](auto& c, auto a, auto, auto y) { tanh_forward(c, a, y); },
       [](double a, double) { return std::tanh(a); }},
      {"tanh_backward", [](auto& c, auto a, auto b, auto y) { tanh_backward(c, a, b, y); },
       [](double a, double b) { return b * (1 - a * a); }, 8},
      {"exp_forward", [](auto& c, auto a, auto, auto y) { exp_forward(c, a, y); },
       [](double a, double) { return std::exp(a); }},
      {"log_forward", [](auto& c, auto a, auto, auto y) { log_forward(c, a, y); },
       [](double a, double) { return a < 0 ? kNan : std::log(a); }},
      {"gelu_forward", [](auto& c, auto a, auto, auto y) { gelu_forward(c, a, false, y); },
       [](double a, double) { return a * std::erfc(-a / std::sqrt(2.0)) / 2; }},
      {"gelu_backward", [](auto& c, auto a, auto b, auto y) { gelu_backward(c, a, false, b, y); },
       [](double a, double b) {
         return b * (std::erfc(-a / std::sqrt(2.0)) / 2 +
                     a * std::exp(-a * a / 2) / std::sqrt(2 * std::acos(-1.0)));
       },
       8},
  };
  return all;
}

TEST(Kernels, ElementwiseIsRightAtEveryLengthAlsoInPlace) {
  ThreadPool pool(1);
  for (const Elementwise& k : elementwise())
    for (Isa isa : rungs())
      for (DType t : kFloats)
        for (int64_t n : kLengths) {
          const CpuContext ctx{&pool, isa};
          const Block a = Block::random(t, Shape{n}, 1);
          Block b = Block::random(t, Shape{n}, 2);
          for (int64_t i = 0; i < n; ++i) b.set(i, b[i] < 0 ? b[i] - 0.5 : b[i] + 0.5);
          const auto want = [&](int64_t i) { return k.want(a[i], b[i]); };
          Block y(t, Shape{n}, 7);
          k.run(ctx, a.view(), b.view(), y.view());
          expect_near(y, want, tolerance(t, k.steps), 0.25, label(k.name, isa, t, n));
          Block over_a = a, over_b = b;
          k.run(ctx, over_a.view(), b.view(), over_a.view());
          EXPECT_TRUE(over_a.same_bits(y) || n == 0) << label(k.name, isa, t, n) << " over a";
          k.run(ctx, a.view(), over_b.view(), over_b.view());
          EXPECT_TRUE(over_b.same_bits(y) || n == 0) << label(k.name, isa, t, n) << " over b";
          if (testing::Test::HasFatalFailure()) return;
        }
}

TEST(Kernels, ElementwiseWritesNothingBeyondItsEnd) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (DType t : kFloats)
      for (int64_t n : kLengths) {
        Block x = Block::random(t, Shape{n + 40}, 3), y(t, Shape{n + 40}, 5);
        relu_forward(CpuContext{&pool, isa}, ConstView(x.view().data, Shape{n}, t),
                     View(y.view().data, Shape{n}, t));
        for (int64_t i = n; i < n + 40; ++i) ASSERT_EQ(y[i], 5) << label("relu", isa, t, n);
      }
}

TEST(Kernels, MaskedFillAndScaleBy) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (DType t : kFloats)
      for (int64_t n : kLengths) {
        const CpuContext ctx{&pool, isa};
        const Block x = Block::random(t, Shape{n}, 4), s(t, Shape{}, -1.5);
        Block mask(DType::boolean, Shape{n}), y(t, Shape{n}), z(t, Shape{n});
        for (int64_t i = 0; i < n; ++i) mask.set(i, i % 3 == 1);
        masked_fill(ctx, x.view(), mask.view(), -kInf, y.view());
        scale_by(ctx, x.view(), s.view(), z.view());
        for (int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(y[i], i % 3 == 1 ? -kInf : x[i]) << label("masked_fill", isa, t, n);
          ASSERT_NEAR(z[i], -1.5 * x[i], tolerance(t) * 3) << label("scale_by", isa, t, n);
        }
      }
}

TEST(Kernels, CastsBetweenAllPairs) {
  ThreadPool pool(1);
  const DType all[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                       DType::i64, DType::i32, DType::u8,   DType::boolean};
  const double values[] = {0, 1, 2, 3, 100, 1, 0, 64, 127, 5, 96, 33, 17, 8, 4, 2, 1};
  for (Isa isa : rungs())
    for (DType from : all)
      for (DType to : all) {
        Block x(from, Shape{17}), y(to, Shape{17}, 1);
        for (int64_t i = 0; i < 17; ++i) x.set(i, values[i]);
        cast(CpuContext{&pool, isa}, x.view(), y.view());
        for (int64_t i = 0; i < 17; ++i)
          ASSERT_EQ(y[i], to == DType::boolean ? x[i] != 0 : x[i])
              << name_of(from) << " to " << name_of(to) << ", rung " << static_cast<int>(isa);
      }
}

TEST(Kernels, CastsToIntegersSaturate) {
  ThreadPool pool(1);
  const double in[] = {1e30, -1e30, kInf, -kInf, kNan, -3.9, 3.9, 300};
  const double want_i32[] = {2147483647, -2147483648.0, 2147483647, -2147483648.0, 0, -3, 3, 300};
  const double want_u8[] = {255, 0, 255, 0, 0, 0, 3, 255};
  for (Isa isa : rungs())
    for (DType t : {DType::f32, DType::f64}) {
      Block x(t, Shape{8}), i32(DType::i32, Shape{8}), i64(DType::i64, Shape{8}),
          u8(DType::u8, Shape{8});
      for (int i = 0; i < 8; ++i) x.set(i, in[i]);
      const CpuContext ctx{&pool, isa};
      cast(ctx, x.view(), i32.view());
      cast(ctx, x.view(), i64.view());
      cast(ctx, x.view(), u8.view());
      for (int i = 0; i < 8; ++i) {
        EXPECT_EQ(i32[i], want_i32[i]) << in[i];
        EXPECT_EQ(u8[i], want_u8[i]) << in[i];
      }
      EXPECT_EQ(i64[0], 9223372036854775807.0);
      EXPECT_EQ(i64[1], -9223372036854775808.0);
    }
}

// All 16-bit patterns out and back, and floats half-way between neighbours, which go to even.
TEST(Kernels, SixteenBitFloatsConvertExactly) {
  ThreadPool pool(1);
  constexpr int64_t kAll = 65536;
  for (Isa isa : rungs())
    for (DType t : {DType::bf16, DType::f16}) {
      const CpuContext ctx{&pool, isa};
      std::vector<uint16_t> bits(kAll), back(kAll);
      for (int64_t i = 0; i < kAll; ++i) bits[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
      const ConstView small(bits.data(), Shape{kAll}, t);
      Block wide(DType::f32, Shape{kAll}), wider(DType::f64, Shape{kAll});
      cast(ctx, small, wide.view());
      cast(ctx, wide.view(), wider.view());
      for (const Block* source : {&wide, &wider}) {
        cast(ctx, source->view(), View(back.data(), Shape{kAll}, t));
        for (size_t i = 0; i < kAll; ++i) {
          if (std::isnan(wide[static_cast<int64_t>(i)])) continue;
          ASSERT_EQ(back[i], bits[i]) << name_of(t) << ", rung " << static_cast<int>(isa);
        }
      }
      const int64_t finite = t == DType::f16 ? 0x7bff : 0x7f7f;
      for (double nudge : {-1e-9, 0.0, 1e-9}) {  // the last two only a double can tell apart
        Block middle(DType::f64, Shape{finite});
        for (int64_t i = 0; i < finite; ++i)
          middle.set(i, (wide[i] + wide[i + 1]) / 2 * (1 + nudge));
        cast(ctx, middle.view(), View(back.data(), Shape{finite}, t));
        for (int64_t i = 0; i < finite; ++i) {
          const int64_t even = i % 2 == 0 ? i : i + 1;
          ASSERT_EQ(back[static_cast<size_t>(i)], nudge < 0   ? i
                                                  : nudge > 0 ? i + 1
                                                              : even)
              << name_of(t) << " after " << wide[i] << ", rung " << static_cast<int>(isa);
        }
      }
    }
}

TEST(Kernels, FillsEveryDtype) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (DType t : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32,
                    DType::u8, DType::boolean})
      for (int64_t n : {1, 9, 100}) {
        Block x(t, Shape{n});
        fill(CpuContext{&pool, isa}, x.view(), 1.0);
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(x[i], 1) << label("fill", isa, t, n);
      }
}

// The number of a word is one formula, rounded once.
TEST(Kernels, UniformNumbersAreTheSameOnEveryRung) {
  constexpr int64_t kCount = 1003;
  const PhiloxKey key{11, 2, 5};
  const float low = -0.1f, span = 0.8f;
  ThreadPool pool(1);
  for (Isa isa : rungs()) {
    Block x(DType::f32, Shape{kCount});
    uniform(CpuContext{&pool, isa}, x.view(), key, -0.1, 0.7);
    for (int64_t i = 0; i < kCount; ++i) {
      const double at =
          double(span) * uniform01(philox(key, static_cast<uint64_t>(i / 4)).v[i % 4]);
      ASSERT_EQ(x[i], static_cast<float>(double(low) + at)) << label("uniform", isa, DType::f32);
    }
  }
}

TEST(Kernels, SquaresAndNonfinite) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (DType t : kFloats)
      for (int64_t n : {0, 1, 5, 8, 33, 1000}) {
        const CpuContext ctx{&pool, isa};
        Block x = Block::random(t, Shape{n}, 5), out(DType::f64, Shape{2}, 9);
        double want = 0;
        for (int64_t i = 0; i < n; ++i) want += x[i] * x[i];
        squares_and_nonfinite(ctx, x.view(), out.view());
        EXPECT_NEAR(out[0], want, 1e-13 * want) << label("squares", isa, t, n);
        EXPECT_EQ(out[1], 0);
        if (n < 5) continue;
        x.set(0, kInf), x.set(3, -kInf), x.set(4, kNan);
        squares_and_nonfinite(ctx, x.view(), out.view());
        EXPECT_EQ(out[1], 3) << label("nonfinite", isa, t, n);
      }
}

}  // namespace
}  // namespace pinion::kernels
