// SPDX-License-Identifier: Apache-2.0
// The generator's published answers, the same numbers on every rung and dtype however a tensor is
// cut, and the distributions drawn from it.
#include "kernels_testing.h"
#include "pinion/kernels/philox.h"

namespace pinion::kernels {
namespace {

uint64_t join(uint32_t low, uint32_t high) { return low | uint64_t{high} << 32; }

// The vectors for philox4x32-10 that Random123 (Salmon et al. 2011) publishes in kat_vectors.
TEST(RandomKernels, PhiloxGivesItsKnownAnswers) {
  struct Answer {
    uint32_t counter[4], key[2], words[4];
  };
  const Answer answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (const Answer& a : answers) {
    const PhiloxKey key{join(a.key[0], a.key[1]), 0, join(a.counter[2], a.counter[3])};
    const Philox4 words = philox(key, join(a.counter[0], a.counter[1]));
    for (int i = 0; i < 4; ++i) EXPECT_EQ(words.v[i], a.words[i]);
  }
}

TEST(RandomKernels, UniformIsTheWordsInOrderOnEveryRung) {
  ThreadPool pool(3);
  const PhiloxKey key{0x123456789abcdef0u, 7, 0x100000002u};
  for (Isa isa : rungs())
    for (DType t : {DType::f32, DType::f64})
      for (int64_t n : {1, 2, 3, 5, 15, 16, 33, 64, 1001, 100003}) {
        Block x(t, Shape{n});
        uniform(CpuContext{&pool, isa}, x.view(), key, 0, 1);
        for (int64_t i = 0; i < n; ++i)
          ASSERT_EQ(x[i], uniform01(philox(key, static_cast<uint64_t>(i) / 4).v[i % 4]))
              << label("uniform", isa, t, n) << " at " << i;
      }
}

TEST(RandomKernels, UniformStaysInItsRange) {
  ThreadPool pool(1);
  for (Isa isa : rungs()) {
    Block x(DType::f32, Shape{100000});
    uniform(CpuContext{&pool, isa}, x.view(), {1, 2, 3}, 1.0, 1.0 + 0x1p-22);  // four floats wide
    for (int64_t i = 0; i < x.numel(); ++i) ASSERT_TRUE(x[i] >= 1 && x[i] < 1 + 0x1p-22) << x[i];
    uniform(CpuContext{&pool, isa}, x.view(), {1, 2, 3}, -3, 5);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < x.numel(); ++i) sum += x[i], squares += (x[i] - 1) * (x[i] - 1);
    EXPECT_NEAR(sum / 1e5, 1, 0.03);  // sigma of the mean: 0.0073
    EXPECT_NEAR(squares / 1e5, 64.0 / 12, 0.08);
  }
}

TEST(RandomKernels, NormalIsNormalAndTheSameOnEveryRung) {
  ThreadPool pool(3);
  const PhiloxKey key{99, 1, 5};
  for (int64_t n : {1, 2, 7, 16, 63, 200001}) {
    Block wide(DType::f64, Shape{n});
    normal(CpuContext{&pool, Isa::scalar}, wide.view(), key, 2, 3);
    for (Isa isa : rungs()) {
      Block x(DType::f32, Shape{n});
      normal(CpuContext{&pool, isa}, x.view(), key, 2, 3);
      for (int64_t i = 0; i < n; ++i)
        ASSERT_NEAR(x[i], wide[i], 2e-5) << label("normal", isa, DType::f32, n) << " at " << i;
    }
    if (n < 1000) continue;
    double moment[5] = {};
    for (int64_t i = 0; i < n; ++i)
      for (int k = 1; k <= 4; ++k) moment[k] += std::pow((wide[i] - 2) / 3, k) / double(n);
    EXPECT_NEAR(moment[1], 0, 0.01);  // sigma 0.0022
    EXPECT_NEAR(moment[2], 1, 0.02);  // sigma 0.0032
    EXPECT_NEAR(moment[3], 0, 0.04);
    EXPECT_NEAR(moment[4], 3, 0.10);
  }
}

TEST(RandomKernels, DropoutKeepsByTheWordsOnEveryRungAndDtype) {
  ThreadPool pool(3);
  const PhiloxKey key{5, 6, 7};
  for (Isa isa : rungs())
    for (DType t : kFloats)
      for (double p : {0.0, 0.3, 1.0})
        for (int64_t n : {1, 3, 8, 17, 64, 70001}) {
          const CpuContext ctx{&pool, isa};
          Block x(t, Shape{n}, 1.5), y(t, Shape{n}, 9);
          dropout(ctx, x.view(), p, key, y.view());
          int64_t kept = 0;
          for (int64_t i = 0; i < n; ++i) {
            const uint32_t word = philox(key, static_cast<uint64_t>(i) / 4).v[i % 4];
            const bool keep = p == 0 || word < bernoulli_threshold(1 - p);
            kept += keep;
            ASSERT_NEAR(y[i], keep ? 1.5 / (1 - p) : 0, tolerance(t) * 3)
                << label("dropout", isa, t, n) << " at " << i;
          }
          if (n > 1000) {
            EXPECT_NEAR(double(kept) / double(n), 1 - p, 0.01);
          }
          dropout(ctx, x.view(), p, key, x.view());
          ASSERT_TRUE(x.same_bits(y)) << "in place";
        }
}

}  // namespace
}  // namespace pinion::kernels
