// SPDX-License-Identifier: Apache-2.0
// Counts streams of random numbers and fills parameters from them.
#include "pinion/nn/init.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "pinion/kernels/kernels.h"

namespace pinion {
namespace {

constexpr int kUses = 3;
constexpr uint32_t kUseShift = 28;  // streams of one use: 2^28

std::atomic<uint64_t> seed_of_process{0};
std::atomic<uint64_t> seedings{0};  // calls of manual_seed()

struct StreamCounts {
  uint64_t seeding = 0;  // the call of manual_seed() that these counts started after
  uint32_t next[kUses] = {};
};

StreamCounts& stream_counts() {
  thread_local StreamCounts counts;
  if (const uint64_t now = seedings.load(); counts.seeding != now) counts = {now, {}};
  return counts;
}

}  // namespace

void manual_seed(uint64_t seed) {
  seed_of_process.store(seed);
  seedings.fetch_add(1);
}

uint64_t random_seed() { return seed_of_process.load(std::memory_order_relaxed); }

uint32_t next_stream(StreamUse use) {
  StreamCounts& counts = stream_counts();
  const auto kind = static_cast<uint32_t>(use);
  PINION_CHECK(kind < kUses, "next_stream: expected a StreamUse, got ", kind);
  PINION_CHECK(counts.next[kind] < (1u << kUseShift), "next_stream: all 2^28 streams are in use");
  return (kind << kUseShift) + counts.next[kind]++;
}

RandomState random_state() {
  RandomState state{random_seed(), {}};
  std::copy_n(stream_counts().next, kUses, state.streams);
  return state;
}

void set_random_state(const RandomState& state) {
  seed_of_process.store(state.seed);
  std::copy_n(state.streams, kUses, stream_counts().next);
}

Tensor nn::new_parameter(const Shape& shape) {
  MemoryTagScope tag(MemoryTag::parameters);
  Tensor t(shape);
  t.requires_grad(true);
  return t;
}

namespace nn::init {
namespace {

void check_target(const char* op, const Tensor& t) {
  PINION_CHECK(t.defined(), op, ": expected a tensor, got an undefined one");
  PINION_CHECK(is_floating(t.dtype()), op, ": expected a floating tensor, got ", t.dtype());
}

PhiloxKey new_key() { return {random_seed(), next_stream(StreamUse::init), 0}; }

// Runs draw(ctx, view) on a view that random kernels can fill, and rounds it into t where t is
// narrow.
template <class Draw>
void fill(Tensor& t, Draw draw) {
  const bool wide = t.dtype() == DType::f32 || t.dtype() == DType::f64;
  Tensor drawn = wide ? t : Tensor(t.shape(), DType::f32, t.device());
  on(t.device(), [&](auto& ctx) {
    draw(ctx, drawn.mut());
    if (!wide) kernels::cast(ctx, drawn, t.mut());
  });
}

// Inverse of the normal distribution function: Giles' approximation of the inverse error function
// ("Approximating the erfinv function", 2010) and two Newton steps, which take it to double
// precision.
double inverse_erf(double x) {
  if (x <= -1) return -INFINITY;
  if (x >= 1) return INFINITY;
  double w = -std::log((1 - x) * (1 + x)), y;
  const auto horner = [](double at, std::initializer_list<double> c) {
    double sum = 0;
    for (double k : c) sum = sum * at + k;
    return sum;
  };
  if (w < 5)
    y = horner(w - 2.5, {2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06,
                         0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941});
  else
    y = horner(std::sqrt(w) - 3,
               {-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
                -0.0076224613, 0.00943887047, 1.00167406, 2.83297682});
  y *= x;
  constexpr double kHalfSqrtPi = 0.88622692545275801;  // sqrt(pi) / 2
  for (int i = 0; i < 2; ++i) y -= (std::erf(y) - x) * kHalfSqrtPi * std::exp(y * y);
  return y;
}

double fan_of(const char* op, const Tensor& t, FanMode mode) {
  check_target(op, t);
  const Fans fans = fans_of(t.shape());
  const int64_t fan = mode == FanMode::in ? fans.in : fans.out;
  PINION_CHECK(fan > 0 || t.numel() == 0, op, ": expected a fan above 0, got shape ", t.shape());
  return static_cast<double>(fan > 0 ? fan : 1);
}

double xavier_std(const char* op, const Tensor& t, double gain) {
  PINION_CHECK(std::isfinite(gain), op, ": expected a finite gain, got ", gain);
  return gain * std::sqrt(2 / (fan_of(op, t, FanMode::in) + fan_of(op, t, FanMode::out)));
}

}  // namespace

void constant(Tensor& t, double value) {
  check_target("constant", t);
  on(t.device(), [&](auto& ctx) { kernels::fill(ctx, t.mut(), value); });
}

void uniform(Tensor& t, double low, double high) {
  check_target("uniform", t);
  PINION_CHECK(std::isfinite(low) && std::isfinite(high) && low <= high,
               "uniform: expected finite low <= high, got low ", low, ", high ", high);
  const PhiloxKey key = new_key();
  fill(t, [&](auto& ctx, View x) { kernels::uniform(ctx, x, key, low, high); });
}

void normal(Tensor& t, double mean, double std) {
  check_target("normal", t);
  PINION_CHECK(std::isfinite(mean) && std::isfinite(std) && std >= 0,
               "normal: expected a finite mean and std >= 0, got mean ", mean, ", std ", std);
  const PhiloxKey key = new_key();
  fill(t, [&](auto& ctx, View x) { kernels::normal(ctx, x, key, mean, std); });
}

void trunc_normal(Tensor& t, double mean, double std, double low, double high) {
  check_target("trunc_normal", t);
  PINION_CHECK(std::isfinite(mean) && std::isfinite(std) && std > 0,
               "trunc_normal: expected a finite mean and std > 0, got mean ", mean, ", std ", std);
  PINION_CHECK(low < high, "trunc_normal: expected low < high, got low ", low, ", high ", high);
  const double kRoot2 = std::sqrt(2.0);
  const double from = std::erf((low - mean) / std / kRoot2);
  const double to = std::erf((high - mean) / std / kRoot2);
  const PhiloxKey key = new_key();
  // Drawn on the host by inversion: 32 bits a draw, at the middle of its interval.
  std::vector<float> values(static_cast<size_t>(t.numel()));
  Philox4 block{};
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 4 == 0) block = philox(key, i / 4);
    const double u = (block.v[i % 4] + 0.5) * 0x1p-32;
    const double x = mean + std * kRoot2 * inverse_erf(from + (to - from) * u);
    values[i] = static_cast<float>(std::fmin(std::fmax(x, low), high));
  }
  const Tensor drawn = Tensor::of(values, t.shape()).to(t.device());
  on(t.device(), [&](auto& ctx) { kernels::cast(ctx, drawn, t.mut()); });
}

Fans fans_of(const Shape& shape) {
  PINION_CHECK(shape.rank() >= 2, "fans_of: expected at least two dimensions, got ", shape);
  const int64_t field = shape.numel(2, shape.rank());
  return {shape[1] * field, shape[0] * field};
}

double gain_of(Nonlinearity f, double slope) {
  switch (f) {
    case Nonlinearity::tanh: return 5.0 / 3.0;
    case Nonlinearity::relu: return std::sqrt(2.0);
    case Nonlinearity::leaky_relu:
      PINION_CHECK(std::isfinite(slope), "gain_of: expected a finite slope, got ", slope);
      return std::sqrt(2.0 / (1 + slope * slope));
    default: return 1;
  }
}

void xavier_uniform(Tensor& t, double gain) {
  const double bound = std::sqrt(3.0) * std::fabs(xavier_std("xavier_uniform", t, gain));
  uniform(t, -bound, bound);
}

void xavier_normal(Tensor& t, double gain) {
  normal(t, 0, std::fabs(xavier_std("xavier_normal", t, gain)));
}

void kaiming_uniform(Tensor& t, double slope, FanMode mode, Nonlinearity f) {
  const double fan = fan_of("kaiming_uniform", t, mode);
  const double bound = gain_of(f, slope) * std::sqrt(3 / fan);
  uniform(t, -bound, bound);
}

void kaiming_normal(Tensor& t, double slope, FanMode mode, Nonlinearity f) {
  const double fan = fan_of("kaiming_normal", t, mode);
  normal(t, 0, gain_of(f, slope) / std::sqrt(fan));
}

}  // namespace nn::init
}  // namespace pinion
