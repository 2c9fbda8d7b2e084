// SPDX-License-Identifier: Apache-2.0
// Kernels of kernels/cuda against those of the CPU: every length around the vector width, pointers
// off their boundaries, in place, all pairs of types. Runs on a GPU, or on the simulator.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/tensor.h"

namespace pinion {
namespace {

constexpr Device kCpu{}, kCuda{Device::Kind::cuda, 0};
constexpr DType kFloating[] = {DType::f32, DType::f64, DType::bf16, DType::f16};
constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};
constexpr int64_t kRoom = 24;  // elements around what a kernel sees

class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

// n elements with others around them, the same ones on both devices.
struct Pair {
  int64_t n, offset;
  Tensor cpu, cuda;

  Pair(DType t, int64_t count, int64_t first, double scale = 1)
      : n(count), offset(first), cpu({count + kRoom}, t) {
    std::vector<double> values;
    for (int64_t i = 0; i < n + kRoom; ++i)
      values.push_back(scale * std::sin(static_cast<double>(i * 7 + first)));
    const Tensor wide = Tensor::of(values, {n + kRoom});
    on(kCpu, [&](auto& ctx) { kernels::cast(ctx, wide, cpu.mut()); });
    cuda = cpu.to(kCuda);
  }
  View on_device(Device d) {
    Tensor& t = d == kCpu ? cpu : cuda;
    return {static_cast<char*>(t.mut().data) + offset * size_of(t.dtype()), {n}, t.dtype()};
  }
  std::string bytes(Device d) const {
    const Tensor host = (d == kCpu ? cpu : cuda).to(kCpu);
    const ConstView v = host.view();
    return {static_cast<const char*>(v.data), static_cast<size_t>(v.numel() * size_of(v.dtype))};
  }
  void expect_same() const { EXPECT_TRUE(bytes(kCpu) == bytes(kCuda)); }
};

// Runs f on both devices.
template <class F>
void on_both(F f) {
  for (const Device d : {kCpu, kCuda}) on(d, [&](auto& ctx) { f(ctx, d); });
}

TEST_F(CudaKernels, AnyLengthAndAnyBoundary) {
  const int64_t offsets[][3] = {{0, 0, 0}, {1, 1, 1}, {1, 0, 0}, {0, 3, 1}, {7, 7, 7}, {0, 0, 2}};
  for (const DType t : kFloating)
    for (const int64_t n : {0, 1, 3, 4, 7, 8, 9, 31, 64, 65, 1000})
      for (const auto& [at_a, at_b, at_y] : offsets) {
        SCOPED_TRACE(cat({t, " n ", n, " offsets ", at_a, " ", at_b, " ", at_y}));
        Pair a(t, n, at_a), b(t, n, at_b), y(t, n, at_y);
        on_both([&](auto& ctx, Device d) {
          kernels::add(ctx, a.on_device(d), b.on_device(d), y.on_device(d));
        });
        y.expect_same();  // what lies around y included
      }
}

TEST_F(CudaKernels, InPlace) {
  for (const DType t : kFloating)
    for (const int64_t offset : {0, 1}) {
      SCOPED_TRACE(cat({t, " offset ", offset}));
      Pair x(t, 333, offset);
      on_both([&](auto& ctx, Device d) {
        kernels::affine(ctx, x.on_device(d), 2, 0.5, x.on_device(d));
        kernels::clamp(ctx, x.on_device(d), -0.5, 1.5, x.on_device(d));
      });
      x.expect_same();
    }
}

TEST_F(CudaKernels, FillOfEveryType) {
  for (const DType t : kAll)
    for (const int64_t offset : {0, 1}) {
      SCOPED_TRACE(cat({t, " offset ", offset}));
      Pair x(t, 77, offset);
      on_both([&](auto& ctx, Device d) { kernels::fill(ctx, x.on_device(d), 1.7); });
      x.expect_same();
    }
}

TEST_F(CudaKernels, CastBetweenAllTypes) {
  for (const DType from : kAll)
    for (const DType to : kAll) {
      SCOPED_TRACE(cat({from, " to ", to}));
      Pair x(from, 45, 3, 300), y(to, 45, 3);
      on_both([&](auto& ctx, Device d) { kernels::cast(ctx, x.on_device(d), y.on_device(d)); });
      y.expect_same();
    }
}

TEST_F(CudaKernels, ScaleByANumberOfAnyType) {
  for (const DType t : kFloating)
    for (const DType of_scale : kFloating) {
      SCOPED_TRACE(cat({t, " by ", of_scale}));
      Pair x(t, 100, 1), y(t, 100, 1), s(of_scale, 1, 0, 0.5);
      on_both([&](auto& ctx, Device d) {
        kernels::fill(ctx, s.on_device(d), 1.5);
        kernels::scale_by(ctx, x.on_device(d), s.on_device(d), y.on_device(d));
      });
      y.expect_same();
    }
}

TEST_F(CudaKernels, DropoutDrawsTheNumbersOfTheCpu) {
  for (const DType t : kFloating)
    for (const double p : {0.0, 0.3})
      for (const int64_t n : {1, 6, 101, 4096}) {
        SCOPED_TRACE(cat({t, " p ", p, " n ", n}));
        Pair x(t, n, 1), y(t, n, 1);
        on_both([&](auto& ctx, Device d) {
          kernels::dropout(ctx, x.on_device(d), p, {11, 2, 5}, y.on_device(d));
        });
        y.expect_same();
      }
}

// Columns around a warp, rows around the slices that share a sum: integers, so that every order of
// addition is exact.
TEST_F(CudaKernels, SumsOfAnyShape) {
  for (const int64_t outer : {1, 3})
    for (const int64_t n : {1, 5, 16, 17, 300})
      for (const int64_t inner : {1, 2, 31, 32, 33, 70}) {
        SCOPED_TRACE(cat({Shape{outer, n, inner}}));
        Pair whole(DType::i32, outer * n * inner, 0, 5), x(DType::f32, outer * n * inner, 0);
        Pair y(DType::f32, outer * inner, 0);
        on_both([&](auto& ctx, Device d) {
          kernels::cast(ctx, whole.on_device(d), x.on_device(d));
          const ConstView folded(x.on_device(d).data, {outer, n, inner}, DType::f32);
          kernels::sum_axis(ctx, folded, 0.5, y.on_device(d));
        });
        y.expect_same();
      }
}

TEST_F(CudaKernels, NanGoesWhereTheFormulasSendIt) {
  Pair x(DType::f32, 9, 0), y(DType::f32, 9, 0);
  on_both([&](auto& ctx, Device d) {
    kernels::fill(ctx, x.on_device(d), std::numeric_limits<double>::quiet_NaN());
    kernels::relu_forward(ctx, x.on_device(d), y.on_device(d));
  });
  const std::vector<float> got = y.cuda.to(kCpu).values<float>();
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(std::isnan(got[static_cast<size_t>(i)]));
}

}  // namespace
}  // namespace pinion
