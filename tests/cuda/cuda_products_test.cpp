// SPDX-License-Identifier: Apache-2.0
// Large matrix products, which cuBLASLt computes where it is there, and our own kernels of the same
// sizes, against the CPU.
#ifdef PINION_WITH_CUDA
#include <limits>
#include <memory>

#include "pinion/kernels/cuda/matmul_library.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

using kernels::cuda::OwnProductsOnly;

// Calls f with whatever computes large products here, and again with our own kernels alone.
template <class F>
void for_both_ways(F f, bool also_own = true) {
  for (const bool own : {false, true}) {
    if (own && !also_own) continue;
    SCOPED_TRACE(own ? "own kernels" : kernels::cuda::product_library());
    const auto scope = own ? std::make_unique<OwnProductsOnly>() : nullptr;
    f();
  }
}

std::vector<double> whole_numbers(int64_t n) {
  std::vector<double> v;
  for (int64_t i = 0; i < n; ++i) v.push_back(static_cast<double>((i * 40503 >> 5) % 5 - 2));
  return v;
}

// Integers, so that every order of addition is exact. Our own kernels have a test of their own.
TEST_F(CudaKernels, LargeProducts) {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{64, 72, 80}, {65, 64, 67}, {130, 64, 64}})
    for (const int which : {0, 1, 2, 3})
      for (const DType in : {DType::f32, DType::bf16, DType::f16})
        for (const DType out : {DType::f32, in}) {
          SCOPED_TRACE(cat({m, " ", n, " ", k, " transposed ", which, " ", in, " to ", out}));
          const bool ta = which & 1, tb = which & 2, accumulate = m == 64 || which == 0;
          const int64_t batch = m == 65 ? 3 : 1;
          Pair a(in, ta ? Shape{batch, k, m} : Shape{batch, m, k}, whole_numbers(batch * m * k));
          Pair b(in, tb ? Shape{batch, n, k} : Shape{batch, k, n}, whole_numbers(batch * n * k));
          Pair y(out, {batch, m, n}, whole_numbers(batch * m * n));
          on_both([&](auto& ctx, Device d) {
            kernels::matmul(ctx, a.on_device(d), ta, b.on_device(d), tb, accumulate,
                            y.on_device(d));
          });
          y.expect_same();
        }
}

TEST_F(CudaKernels, LargeProductsOffTheirBoundaries) {
  for (const DType t : {DType::f32, DType::bf16})
    for (const int64_t offset : {0, 1, 2, 3, 4, 8}) {
      SCOPED_TRACE(cat({t, " offset ", offset}));
      for_both_ways([&] {
        Pair a(t, {80, 64}, offset), b(t, {64, 72}, offset), y(t, {80, 72}, offset);
        on_both([&](auto& ctx, Device d) {
          kernels::matmul(ctx, a.on_device(d), false, b.on_device(d), false, false, y.on_device(d));
        });
        y.expect_close(t == DType::f32 ? 1e-5 : 1e-2);
      });
    }
}

TEST_F(CudaKernels, LargeLinearLayers) {
  using enum Activation;
  for (const DType t : {DType::f32, DType::bf16})
    for (const int64_t n : {64, 68, 72})  // 68: rows of what GELU sees are not on 16 bytes
      for (const Activation act : {none, relu, gelu, gelu_tanh})
        for (const bool bias : {false, true})
          for (const bool keep : {false, true}) {
            if (keep && act != gelu && act != gelu_tanh) continue;
            SCOPED_TRACE(cat({t, " n ", n, " act ", static_cast<int>(act), " bias ", bias,
                              " keeps what it sees ", keep}));
            for_both_ways(
                [&] {
                  Pair x(t, {2, 35, 96}), w(t, {n, 96}, 0, 0.3), b(t, {n}, 8), y(t, {2, 35, n});
                  Pair pre(t, {2, 35, n});
                  on_both([&](auto& ctx, Device d) {
                    kernels::linear_forward(ctx, x.on_device(d), w.on_device(d),
                                            bias ? b.on_device(d) : View{}, act, y.on_device(d),
                                            keep ? pre.on_device(d) : View{});
                  });
                  y.expect_close(t == DType::f32 ? 2e-5 : 2e-2);
                  pre.expect_close(t == DType::f32 ? 2e-5 : 2e-2);
                },
                n == 72);
          }
}

TEST_F(CudaKernels, LargeLinearLayersKeepNan) {
  std::vector<double> values(64 * 64, 0.5);
  values[5] = std::numeric_limits<double>::quiet_NaN();
  for (const Activation act : {Activation::relu, Activation::gelu_tanh})
    for_both_ways([&] {
      Pair x(DType::f32, {64, 64}, values), w(DType::f32, {64, 64}), y(DType::f32, {64, 64});
      on_both([&](auto& ctx, Device d) {
        kernels::linear_forward(ctx, x.on_device(d), w.on_device(d), {}, act, y.on_device(d), {});
      });
      y.expect_close(2e-5);
      EXPECT_TRUE(std::isnan(y.values(kCuda)[0]));
      EXPECT_FALSE(std::isnan(y.values(kCuda)[64]));
    });
}

}  // namespace
}  // namespace pinion::testing

#else
#include <gtest/gtest.h>

TEST(CudaProducts, AreOfBuildsWithCuda) { GTEST_SKIP() << "a build without CUDA"; }

#endif
