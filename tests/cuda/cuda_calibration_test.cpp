// SPDX-License-Identifier: Apache-2.0
// What the wrappers of device instructions do with random bits, against plain index formulas of the
// PTX manual: on a GPU this checks the wrappers, in the simulator their twins, so that what the one
// runs is what the other ran. Bit for bit; products in float within the rounding of their sums.
#include <array>
#include <bit>
#include <random>

#include "calibration.h"
#include "pinion/kernels/cuda/backend.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

using Words = std::vector<uint32_t>;

class Calibration : public CudaKernels {
 protected:
  // f(context, in, out) over copies of the words in device memory.
  template <class F>
  static Words run(const Words& in, Words out, F f) {
    using cuda_backend::kHost;
    const CudaContext& ctx = cuda_backend::context(0);
    const auto bytes = [](const Words& w) { return static_cast<int64_t>(w.size() * 4); };
    void* device_in = cuda_backend::allocate(0, bytes(in));
    void* device_out = cuda_backend::allocate(0, bytes(out));
    cuda_backend::copy(0, device_in, kHost, in.data(), bytes(in));
    cuda_backend::copy(0, device_out, kHost, out.data(), bytes(out));
    f(ctx, static_cast<const uint32_t*>(device_in), static_cast<uint32_t*>(device_out));
    cuda_backend::copy(kHost, out.data(), 0, device_out, bytes(out));
    cuda_backend::release(0, device_in, bytes(in));
    cuda_backend::release(0, device_out, bytes(out));
    return out;
  }
  Words random_words(size_t n) {
    Words w(n);
    for (uint32_t& x : w) x = random_();
    return w;
  }
  // n 16-bit numbers in [-2, 2), two a word.
  template <class T>
  Words random_numbers(size_t n) {
    Words w(n / 2);
    for (uint32_t& x : w)
      for (const int e : {0, 16}) {
        const double unit = static_cast<double>(random_()) / 4294967296.0;
        x = (e ? x : 0) | static_cast<uint32_t>(T(static_cast<float>(4 * unit - 2)).bits) << e;
      }
    return w;
  }
  std::mt19937 random_{20260607};
};

uint16_t half_word(const Words& w, size_t i) {
  return static_cast<uint16_t>(i % 2 ? w[i / 2] >> 16 : w[i / 2]);
}
template <class T>
double number(const Words& w, size_t i) {
  return static_cast<float>(bit_cast<T>(half_word(w, i)));
}

// c is m16n8k16 of random numbers; element (i, k) of a register as in the figures of the manual.
template <class T>
void expect_product_of_fragments(const Words& in, const Words& out) {
  double a[16][16], b[16][8];
  for (size_t l = 0; l < 32; ++l)
    for (size_t e = 0; e < 8; ++e) {
      const size_t row = l / 4 + (e / 2 % 2 ? 8 : 0), k = l % 4 * 2 + e % 2;
      a[row][k + (e >= 4 ? 8 : 0)] = number<T>(in, l * 20 + e);
      if (e < 4) b[k + (e >= 2 ? 8 : 0)][l / 4] = number<T>(in, l * 20 + 8 + e);
    }
  for (size_t l = 0; l < 32; ++l)
    for (size_t e = 0; e < 4; ++e) {
      double sum = std::bit_cast<float>(in[l * 10 + 6 + e]), size = std::abs(sum);
      for (size_t k = 0; k < 16; ++k) {
        const double term = a[l / 4 + e / 2 * 8][k] * b[k][l % 4 * 2 + e % 2];
        sum += term;
        size += std::abs(term);
      }
      EXPECT_NEAR(std::bit_cast<float>(out[l * 4 + e]), sum, 1e-6 * size) << l << " " << e;
    }
}
TEST_F(Calibration, MultiplyAdd) {
  for (const bool bfloat : {true, false}) {
    Words in(320);
    const Words numbers = bfloat ? random_numbers<BFloat16>(640) : random_numbers<Half>(640);
    for (size_t i = 0; i < in.size(); ++i)
      in[i] = i % 10 < 6 ? numbers[i] : std::bit_cast<uint32_t>(float(i) / 64 - 2);
    const Words out = run(in, Words(128), [&](auto& ctx, auto* x, auto* y) {
      calibration::multiply_add(ctx, bfloat, x, y);
    });
    bfloat ? expect_product_of_fragments<BFloat16>(in, out)
           : expect_product_of_fragments<Half>(in, out);
  }
}

TEST_F(Calibration, LoadMatrices) {
  Words in = random_words(128);
  for (uint32_t l = 0; l < 32; ++l) in.push_back((l * 13 + 5) % 32);  // the row of each lane
  for (const bool transpose : {false, true}) {
    const Words out = run(in, Words(128), [&](auto& ctx, auto* x, auto* y) {
      calibration::load_matrices(ctx, transpose, x, y);
    });
    for (size_t l = 0; l < 32; ++l)
      for (size_t e = 0; e < 8; ++e) {
        const size_t along = l % 4 * 2 + e % 2, across = l / 4, matrix = e / 2;
        const size_t row = in[128 + matrix * 8 + (transpose ? along : across)];
        EXPECT_EQ(half_word(out, l * 8 + e), half_word(in, row * 8 + (transpose ? across : along)));
      }
  }
}

TEST_F(Calibration, CopyAsync) {
  const Words in = random_words(256 + 64);
  const Words out =
      run(in, Words(256), [](auto& ctx, auto* x, auto* y) { calibration::copy_async(ctx, x, y); });
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(out[i], in[256 + i / 4] % 2 ? 0 : in[i]);
}

TEST_F(Calibration, WarpOperations) {
  const Words in = random_words(64);
  const Words out = run(in, Words(32 * calibration::kWarpResults), [](auto& ctx, auto* x, auto* y) {
    calibration::warp_operations(ctx, x, y);
  });
  const auto value = [&](size_t lane) { return in[lane * 2]; };
  const auto choice = [&](size_t lane) { return in[lane * 2 + 1]; };
  for (size_t l = 0; l < 32; ++l) {
    const size_t half = l / 16 * 16;
    uint32_t odd = 0, any = 0, all = 1, match = 0, sum = 0, least = value(0), most = value(0);
    for (size_t i = 0; i < 32; ++i) {
      odd |= (value(i) & 1) << i;
      least = std::min(least, value(i));
      most = std::max(most, value(i));
      if (i / 16 * 16 != half) continue;
      any |= value(i) % 16 == 3;
      all &= value(i) % 16 != 3;
      match |= uint32_t{choice(i) % 4 == choice(l) % 4} << i;
      sum += value(i);
    }
    const uint32_t v = value(l);
    const int bits =
        std::popcount(v) + 100 * std::countl_zero(v) + 10000 * (v ? std::countr_zero(v) + 1 : 0);
    const Words want{value(choice(l) % 32),
                     value(l / 8 * 8 + choice(l) % 8),
                     value(l < 5 ? l : l - 5),
                     value(l % 16 + 3 < 16 ? l + 3 : l),
                     value(l ^ 21),
                     value((l ^ 12) < l / 8 * 8 + 8 ? l ^ 12 : l),
                     odd,
                     any,
                     all,
                     match,
                     sum,
                     least,
                     most,
                     static_cast<uint32_t>(bits)};
    const Words got(out.begin() + static_cast<int>(l) * calibration::kWarpResults,
                    out.begin() + static_cast<int>(l + 1) * calibration::kWarpResults);
    EXPECT_EQ(got, want) << "lane " << l;
  }
}

// To the nearest of `digits` binary digits, ties to even; exponents from `least` on.
double rounded(double x, int digits, int least) {
  const int step = std::max(std::ilogb(x) - digits + 1, least);
  return std::ldexp(std::nearbyint(std::ldexp(x, -step)), step);
}
TEST_F(Calibration, Conversions) {
  Words in = random_words(4000);
  for (const uint32_t special : {0u, 0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 1u,
                                 0x33000000u, 0x33000001u, 0x387fe000u, 0x477fefffu, 0x477ff000u})
    in.push_back(special);
  for (uint32_t i = 0; i < 2000; ++i) in.push_back((100 + i % 45) << 23 | random_() >> 9);
  const auto n = static_cast<int>(in.size());
  const Words out = run(in, Words(in.size() * 4), [&](auto& ctx, auto* x, auto* y) {
    calibration::conversions(ctx, n, x, y);
  });
  for (size_t i = 0; i < in.size(); ++i) {
    const auto x = std::bit_cast<float>(in[i]);
    const auto low = static_cast<uint16_t>(in[i]);
    const Words got(out.begin() + static_cast<int>(i) * 4,
                    out.begin() + static_cast<int>(i) * 4 + 4);
    EXPECT_EQ(got, (Words{BFloat16(x).bits, Half(x).bits,
                          std::bit_cast<uint32_t>(float{bit_cast<BFloat16>(low)}),
                          std::bit_cast<uint32_t>(float{bit_cast<Half>(low)})}))
        << x;
    if (!std::isfinite(x) || x == 0) continue;
    const double bfloat = rounded(x, 8, -133), half = rounded(x, 11, -24);
    EXPECT_EQ(float{bit_cast<BFloat16>(static_cast<uint16_t>(got[0]))}, static_cast<float>(bfloat));
    const float want_half = std::abs(half) > 65504 ? std::copysign(INFINITY, x) : float(half);
    EXPECT_EQ(float{bit_cast<Half>(static_cast<uint16_t>(got[1]))}, want_half) << x;
  }
}

TEST_F(Calibration, Atomics) {
  constexpr int kN = 300;
  const Words in = random_words(kN), start = random_words(calibration::kAtomicResults);
  Words want = start;
  want[6] = want[7] = 0;
  const Words out =
      run(in, want, [](auto& ctx, auto* x, auto* y) { calibration::atomics(ctx, kN, x, y); });
  for (uint32_t i = 0; i < kN; ++i) {
    want[0] += in[i];
    want[1] = std::max(want[1], in[i]);
    want[2] = std::min(want[2], in[i]);
    want[3] &= in[i] | 0xffu << i % 24;
    want[4] |= in[i] & 0xffu << i % 24;
    want[5] ^= in[i];
    want[6] = want[6] >= 99 ? 0 : want[6] + 1;
    want[7] += in[i];
  }
  EXPECT_EQ(out, want);
}

// --- sm_90 ---

class HopperCalibration : public Calibration {
 protected:
  void SetUp() override {
    Calibration::SetUp();
    if (!IsSkipped() && cuda_backend::capability(0) != 90)
      GTEST_SKIP() << "needs a device of capability 9.0";
  }
};

TEST_F(HopperCalibration, LoadTile) {
  constexpr int kLines = 70, kLength = 88;
  const Words in = random_words(2 * kLines * kLength / 2);
  // Inside; beyond both ends; before both beginnings; nothing at all.
  for (const auto& [column, line, matrix] :
       {std::array<int, 3>{16, 3, 1}, {40, 30, 0}, {-8, -5, 1}, {24, 6, 2}}) {
    const Words out =
        run(in, Words(2048), [&, c = column, l = line, m = matrix](auto& ctx, auto* x, auto* y) {
          calibration::load_tile(ctx, c, l, m, x, y);
        });
    for (int l = 0; l < 64; ++l)
      for (int e = 0; e < 64; ++e) {
        const int c = column + e, r = line + l, chunk = e / 8 ^ l % 8;
        const bool there = c >= 0 && c < kLength && r >= 0 && r < kLines && matrix < 2;
        const int at = (matrix * kLines + r) * kLength + c;
        const uint32_t want = there ? half_word(in, static_cast<size_t>(at)) : 0;
        ASSERT_EQ(half_word(out, static_cast<size_t>(l * 64 + chunk * 8 + e % 8)), want)
            << "line " << l << " element " << e << " of the box at " << column << ", " << line;
      }
  }
}

template <class T>
void expect_product_of_tiles(const Words& in, const Words& out, size_t columns, bool across_a,
                             bool across_b) {
  for (size_t thread = 0; thread < 128; ++thread)
    for (size_t s = 0; s < columns / 2; ++s) {
      const size_t row = thread / 32 * 16 + thread % 32 / 4 + s / 2 % 2 * 8;
      const size_t column = s / 4 * 8 + thread % 4 * 2 + s % 2;
      double sum = 0, size = 0;
      for (size_t k = 0; k < 64; ++k) {
        const double a = number<T>(in, across_a ? k * 64 + row : row * 64 + k);
        const double b =
            number<T>(in, 64 * 64 + (across_b ? k * columns + column : column * 64 + k));
        sum += a * b;
        size += std::abs(a * b);
      }
      ASSERT_NEAR(std::bit_cast<float>(out[thread * columns / 2 + s]), sum, 1e-6 * size)
          << "thread " << thread << " sum " << s;
    }
}
TEST_F(HopperCalibration, MultiplyTiles) {
  for (const int columns : {64, 128})
    for (const int which : {0, 1, 2, 3})
      for (const bool bfloat : {true, false}) {
        SCOPED_TRACE(cat({"columns ", columns, " across ", which, bfloat ? " bf16" : " f16"}));
        const bool across_a = which & 1, across_b = which & 2;
        const int numbers = 64 * (64 + columns);
        const auto n = static_cast<size_t>(numbers);
        const Words in = bfloat ? random_numbers<BFloat16>(n) : random_numbers<Half>(n);
        const Words out =
            run(in, Words(static_cast<size_t>(64 * columns)), [&](auto& ctx, auto* x, auto* y) {
              calibration::multiply_tiles(ctx, bfloat, columns, across_a, across_b, x,
                                          x + 64 * 64 / 2, reinterpret_cast<float*>(y));
            });
        const auto size = static_cast<size_t>(columns);
        bfloat ? expect_product_of_tiles<BFloat16>(in, out, size, across_a, across_b)
               : expect_product_of_tiles<Half>(in, out, size, across_a, across_b);
      }
}

}  // namespace
}  // namespace pinion::testing
