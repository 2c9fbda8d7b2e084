// SPDX-License-Identifier: Apache-2.0
// Holds the accuracy that kernels/formulas.h states, on every rung this machine can run, against
// long double; and the limits: infinities, NaN, zeros, subnormals, overflow.
#include "pinion/kernels/formulas.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "pinion/kernels/cpu/isa.h"
#include "pinion/kernels/cpu/parallel.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels {
namespace {

using Real = long double;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// |got - want| in units of the distance between floats at `want`.
double ulps(float got, Real want) {
  if (std::isnan(got) || std::isnan(want)) return std::isnan(got) && std::isnan(want) ? 0 : 1e9;
  const float nearest = static_cast<float>(want);
  if (got == nearest) return 0.5;
  if (std::isinf(got) || std::isinf(nearest)) return 1e9;
  const int exponent = std::max(std::ilogb(nearest == 0 ? 1e-45f : nearest), -126);
  return static_cast<double>(std::fabs(got - want) / std::ldexp(Real(1), exponent - 23));
}

// Floats of every exponent in [low, high], `per_binade` mantissas each, both signs where allowed.
std::vector<float> sweep(float low, float high, int per_binade) {
  std::vector<float> xs;
  const auto step = static_cast<uint32_t>((1u << 23) / static_cast<uint32_t>(per_binade)) | 1u;
  for (uint32_t u = 0; u < 0x7f800000u; u += step)
    for (float x : {bit_cast<float>(u), -bit_cast<float>(u)})
      if (x >= low && x <= high) xs.push_back(x);
  return xs;
}

std::vector<Isa> rungs() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
    if (isa <= detect_isa()) all.push_back(isa);
  return all;
}

using Run = std::function<void(const CpuContext&, ConstView, View)>;

void expect_ulps(const char* name, const std::vector<float>& xs, const Run& run,
                 const std::function<Real(Real)>& reference, double bound) {
  ThreadPool pool(2);
  std::vector<float> ys(xs.size());
  const Shape shape{static_cast<int64_t>(xs.size())};
  std::vector<Real> want(xs.size());
  for (size_t i = 0; i < xs.size(); ++i) want[i] = reference(xs[i]);
  for (Isa isa : rungs()) {
    run(CpuContext{&pool, isa}, ConstView(xs.data(), shape, DType::f32),
        View(ys.data(), shape, DType::f32));
    double worst = 0;
    size_t where = 0;
    for (size_t i = 0; i < xs.size(); ++i)
      if (const double e = ulps(ys[i], want[i]); e > worst) worst = e, where = i;
    EXPECT_LE(worst, bound) << name << " on rung " << static_cast<int>(isa) << " at " << xs[where]
                            << ": " << ys[where] << ", not " << want[where];
    EXPECT_GT(worst, 0) << name << ": the sweep saw nothing";
    testing::Test::RecordProperty(std::string(name) + std::to_string(static_cast<int>(isa)),
                                  std::to_string(worst));
  }
}

Real normal_cdf(Real x) { return std::erfc(-x / std::sqrt(Real(2))) / 2; }
Real normal_pdf(Real x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::acos(Real(-1))); }

TEST(Formulas, ExpIsAccurateOverItsWholeRange) {
  expect_ulps(
      "exp", sweep(-104, 90, 20000), [](auto& ctx, auto x, auto y) { exp_forward(ctx, x, y); },
      [](Real x) { return std::exp(x); }, 1.2);
}

TEST(Formulas, LogIsAccurateOverItsWholeRange) {
  expect_ulps(
      "log", sweep(0, kInf, 4000), [](auto& ctx, auto x, auto y) { log_forward(ctx, x, y); },
      [](Real x) { return std::log(x); }, 1.1);
}

TEST(Formulas, TanhIsAccurateOverItsWholeRange) {
  expect_ulps(
      "tanh", sweep(-30, 30, 4000), [](auto& ctx, auto x, auto y) { tanh_forward(ctx, x, y); },
      [](Real x) { return std::tanh(x); }, 3);
}

TEST(Formulas, SigmoidIsAccurateWhereItIsNormal) {
  expect_ulps(
      "sigmoid", sweep(-87, 30, 4000),
      [](auto& ctx, auto x, auto y) { sigmoid_forward(ctx, x, y); },
      [](Real x) { return 1 / (1 + std::exp(-x)); }, 2.5);
}

// x cdf(x): relative accuracy into the lower tail, where 1 + erf would have no digits left.
TEST(Formulas, GeluIsAccurateInItsTail) {
  expect_ulps(
      "gelu", sweep(-13, 30, 4000),
      [](auto& ctx, auto x, auto y) { gelu_forward(ctx, x, false, y); },
      [](Real x) { return x * normal_cdf(x); }, 6);
}

TEST(Formulas, GeluTanhIsAccurate) {
  // The argument of the sigmoid reaches 24 at x = -5: one rounding of it is 12 ulp of the result.
  expect_ulps(
      "gelu_tanh", sweep(-5, 30, 4000),
      [](auto& ctx, auto x, auto y) { gelu_forward(ctx, x, true, y); },
      [](Real x) {
        const Real k = std::sqrt(2 / std::acos(Real(-1)));
        return x / (1 + std::exp(-2 * k * (x + Real(0.044715) * x * x * x)));
      },
      25);
}

// Slopes cross zero, so their error is absolute.
TEST(Formulas, GeluSlopesAreAccurate) {
  ThreadPool pool(1);
  const std::vector<float> xs = sweep(-45, 45, 1000);
  const std::vector<float> ones(xs.size(), 1.0f);
  std::vector<float> dx(xs.size());
  const Shape shape{static_cast<int64_t>(xs.size())};
  const Real k = std::sqrt(2 / std::acos(Real(-1))), c = 0.044715L;
  for (Isa isa : rungs())
    for (bool tanh_form : {false, true}) {
      gelu_backward(CpuContext{&pool, isa}, ConstView(xs.data(), shape, DType::f32), tanh_form,
                    ConstView(ones.data(), shape, DType::f32), View(dx.data(), shape, DType::f32));
      for (size_t i = 0; i < xs.size(); ++i) {
        const Real x = xs[i], s = 1 / (1 + std::exp(-2 * k * (x + c * x * x * x)));
        const Real want = tanh_form ? s + x * s * (1 - s) * 2 * k * (1 + 3 * c * x * x)
                                    : normal_cdf(x) + x * normal_pdf(x);
        ASSERT_NEAR(dx[i], static_cast<double>(want), 6e-7)
            << "at " << x << ", rung " << static_cast<int>(isa) << ", tanh form " << tanh_form;
      }
    }
}

TEST(Formulas, NormalTailIsAccurate) {
  double worst_tail = 0, worst_density = 0;
  for (float x : sweep(-13, 13, 2000)) {
    const auto at = math::normal_tail(x);
    worst_tail = std::max(worst_tail, ulps(at.tail, normal_cdf(-std::fabs(x))));
    worst_density = std::max(worst_density, ulps(at.density, normal_pdf(x)));
  }
  EXPECT_LE(worst_tail, 6);
  EXPECT_LE(worst_density, 3);
}

TEST(Formulas, CosSinOfATurn) {
  const Real turn = 2 * std::acos(Real(-1));
  for (uint32_t word = 0; word < (1u << 24); word += 97) {
    const float u = static_cast<float>(word) * 0x1p-24f;
    const auto [cos, sin] = math::cos_sin_turn(u);
    ASSERT_NEAR(cos, static_cast<double>(std::cos(turn * u)), 1.2e-7) << u;
    ASSERT_NEAR(sin, static_cast<double>(std::sin(turn * u)), 1.2e-7) << u;
  }
}

TEST(Formulas, FlushedExpAgreesWhereItDoesNotFlush) {
  double worst = 0;
  for (float x : sweep(-87.2f, 88.2f, 2000)) {
    worst = std::max(worst, ulps(math::exp_flushed(x), std::exp(Real(x))));
    EXPECT_EQ(math::exp_nonpositive(std::min(x, 0.0f)), math::exp_flushed(std::min(x, 0.0f)));
  }
  EXPECT_LE(worst, 1.2);
  for (float x : {-88.0f, -1000.0f, -3e38f, -kInf}) {
    EXPECT_EQ(math::exp_nonpositive(x), 0) << x;
    EXPECT_EQ(math::exp_flushed(x), 0) << x;
  }
  EXPECT_EQ(math::exp_flushed(89.0f), kInf);
  EXPECT_TRUE(std::isnan(math::exp_nonpositive(kNan)));
  EXPECT_TRUE(std::isnan(math::exp_flushed(kNan)));
}

struct Limit {
  const char* name;
  Run run;
  std::vector<std::pair<float, float>> points;  // x, y
};

TEST(Formulas, LimitsAreExact) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const std::vector<Limit> limits = {
      {"relu",
       [](auto& c, auto x, auto y) { relu_forward(c, x, y); },
       {{-1, 0}, {-kInf, 0}, {kInf, kInf}, {kNan, kNan}, {0, 0}, {tiny, tiny}, {-tiny, 0}}},
      {"exp",
       [](auto& c, auto x, auto y) { exp_forward(c, x, y); },
       {{0, 1},
        {-0.0f, 1},
        {kInf, kInf},
        {-kInf, 0},
        {kNan, kNan},
        {89, kInf},
        {3e38f, kInf},
        {-104, 0},
        {-3e38f, 0},
        {tiny, 1},
        {-103, tiny}}},
      {"log",
       [](auto& c, auto x, auto y) { log_forward(c, x, y); },
       {{1, 0},
        {0, -kInf},
        {-0.0f, -kInf},
        {-1, kNan},
        {-kInf, kNan},
        {kInf, kInf},
        {kNan, kNan},
        {-tiny, kNan},
        {tiny, -103.27893f}}},
      {"tanh",
       [](auto& c, auto x, auto y) { tanh_forward(c, x, y); },
       {{0, 0},
        {-0.0f, -0.0f},
        {kInf, 1},
        {-kInf, -1},
        {kNan, kNan},
        {tiny, tiny},
        {-tiny, -tiny},
        {1e30f, 1},
        {-20, -1}}},
      {"sigmoid",
       [](auto& c, auto x, auto y) { sigmoid_forward(c, x, y); },
       {{0, 0.5f}, {kInf, 1}, {-kInf, 0}, {kNan, kNan}, {-200, 0}, {200, 1}}},
      {"gelu",
       [](auto& c, auto x, auto y) { gelu_forward(c, x, false, y); },
       {{0, 0}, {kInf, kInf}, {-kInf, 0}, {kNan, kNan}, {-50, 0}, {50, 50}, {3e38f, 3e38f}}},
      {"gelu_tanh",
       [](auto& c, auto x, auto y) { gelu_forward(c, x, true, y); },
       {{0, 0}, {kInf, kInf}, {-kInf, 0}, {kNan, kNan}, {-50, 0}, {50, 50}, {3e38f, 3e38f}}},
      {"clamp",
       [](auto& c, auto x, auto y) { clamp(c, x, -2, 3, y); },
       {{-3, -2}, {4, 3}, {1, 1}, {kInf, 3}, {-kInf, -2}, {kNan, kNan}}},
  };
  ThreadPool pool(1);
  for (const Limit& limit : limits)
    for (Isa isa : rungs())
      for (int64_t repeat : {1, 40}) {  // in part of a register, and in full ones
        for (auto [x, want] : limit.points) {
          const std::vector<float> xs(static_cast<size_t>(repeat), x);
          std::vector<float> ys(xs.size(), 7);
          limit.run(CpuContext{&pool, isa}, ConstView(xs.data(), Shape{repeat}, DType::f32),
                    View(ys.data(), Shape{repeat}, DType::f32));
          for (float y : ys) {
            if (std::isnan(want)) {
              EXPECT_TRUE(std::isnan(y)) << limit.name << "(" << x << ") = " << y;
            } else {
              EXPECT_EQ(y, want) << limit.name << "(" << x << "), rung " << static_cast<int>(isa);
            }
            if (x == 0 && want == 0 && std::string(limit.name) == "tanh") {
              EXPECT_EQ(std::signbit(y), std::signbit(x));
            }
          }
        }
      }
}

}  // namespace
}  // namespace pinion::kernels
