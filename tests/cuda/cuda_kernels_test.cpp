// SPDX-License-Identifier: Apache-2.0
// Kernels of kernels/cuda against those of the CPU: every length around the vector width, pointers
// off their boundaries, in place, all pairs of types. Runs on a GPU, or on the simulator.
#include <limits>

#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

TEST_F(CudaKernels, AnyLengthAndAnyBoundary) {
  const int64_t offsets[][3] = {{0, 0, 0}, {1, 1, 1}, {1, 0, 0}, {0, 3, 1}, {7, 7, 7}, {0, 0, 2}};
  for (const DType t : kFloating)
    for (const int64_t n : {0, 1, 3, 4, 7, 8, 9, 31, 64, 65, 1000})
      for (const auto& [at_a, at_b, at_y] : offsets) {
        SCOPED_TRACE(cat({t, " n ", n, " offsets ", at_a, " ", at_b, " ", at_y}));
        Pair a(t, {n}, at_a), b(t, {n}, at_b), y(t, {n}, at_y);
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
      Pair x(t, {333}, offset);
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
      Pair x(t, {77}, offset);
      on_both([&](auto& ctx, Device d) { kernels::fill(ctx, x.on_device(d), 1.7); });
      x.expect_same();
    }
}

TEST_F(CudaKernels, CastBetweenAllTypes) {
  for (const DType from : kAll)
    for (const DType to : kAll) {
      SCOPED_TRACE(cat({from, " to ", to}));
      Pair x(from, {45}, 3, 300), y(to, {45}, 3);
      on_both([&](auto& ctx, Device d) { kernels::cast(ctx, x.on_device(d), y.on_device(d)); });
      y.expect_same();
    }
}

TEST_F(CudaKernels, ScaleByANumberOfAnyType) {
  for (const DType t : kFloating)
    for (const DType of_scale : kFloating) {
      SCOPED_TRACE(cat({t, " by ", of_scale}));
      Pair x(t, {100}, 1), y(t, {100}, 1), s(of_scale, {1}, 0, 0.5);
      on_both([&](auto& ctx, Device d) {
        kernels::fill(ctx, s.on_device(d), 1.5);
        kernels::scale_by(ctx, x.on_device(d), s.on_device(d), y.on_device(d));
      });
      y.expect_same();
    }
}

TEST_F(CudaKernels, UniformDrawsTheNumbersOfTheCpu) {
  for (const DType t : {DType::f32, DType::f64})
    for (const int64_t n : {1, 6, 101, 4096}) {
      SCOPED_TRACE(cat({t, " n ", n}));
      Pair x(t, {n}, 1);
      on_both([&](auto& ctx, Device d) {
        kernels::uniform(ctx, x.on_device(d), {11, 2, 5}, -0.1, 0.7);
      });
      t == DType::f32 ? x.expect_same() : x.expect_close(1e-15);
    }
}

TEST_F(CudaKernels, NormalDrawsTheNumbersOfTheCpu) {
  for (const DType t : {DType::f32, DType::f64})
    for (const int64_t n : {1, 6, 101, 4096}) {
      SCOPED_TRACE(cat({t, " n ", n}));
      Pair x(t, {n}, 1);
      on_both([&](auto& ctx, Device d) { kernels::normal(ctx, x.on_device(d), {11, 2, 5}, 3, 2); });
      x.expect_close(1e-6);
    }
}

TEST_F(CudaKernels, DropoutDrawsTheNumbersOfTheCpu) {
  for (const DType t : kFloating)
    for (const double p : {0.0, 0.3})
      for (const int64_t n : {1, 6, 101, 4096}) {
        SCOPED_TRACE(cat({t, " p ", p, " n ", n}));
        Pair x(t, {n}, 1), y(t, {n}, 1);
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
        const Shape shape{outer, n, inner};
        Pair whole(DType::i32, shape, 0, 5), x(DType::f32, shape), y(DType::f32, {outer, inner});
        on_both([&](auto& ctx, Device d) {
          kernels::cast(ctx, whole.on_device(d), x.on_device(d));
          kernels::sum_axis(ctx, x.on_device(d), 0.5, y.on_device(d));
        });
        y.expect_same();
      }
}

TEST_F(CudaKernels, NanGoesWhereTheFormulasSendIt) {
  Pair x(DType::f32, {9}, 0), y(DType::f32, {9}, 0);
  on_both([&](auto& ctx, Device d) {
    kernels::fill(ctx, x.on_device(d), std::numeric_limits<double>::quiet_NaN());
    kernels::relu_forward(ctx, x.on_device(d), y.on_device(d));
  });
  for (const double v : y.values(kCuda)) EXPECT_TRUE(std::isnan(v));
}

}  // namespace
}  // namespace pinion::testing
