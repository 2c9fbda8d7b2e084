// SPDX-License-Identifier: Apache-2.0
// Convolutions on the device against their formula: strides that skip, padding, dilation, rows that
// nothing reads, addresses off their boundary.
#ifdef PINION_WITH_CUDA
#include "pinion/kernels/kernels.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

using kernels::Conv2d;

struct Case {
  int64_t n, h, w, c, k, r, s;
  Conv2d conv;

  int64_t out(int64_t extent, int64_t filter) const {
    return (extent + 2 * conv.padding - conv.dilation * (filter - 1) - 1) / conv.stride + 1;
  }
  Shape x_shape() const { return {n, h, w, c}; }
  Shape w_shape() const { return {k, r, s, c}; }
  Shape y_shape() const { return {n, out(h, r), out(w, s), k}; }
};
constexpr Case kCases[] = {
    {2, 5, 6, 3, 4, 3, 3, {1, 1, 1}},
    {1, 9, 8, 8, 8, 7, 7, {2, 3, 1}},
    {2, 9, 8, 4, 2, 3, 3, {2, 1, 1}},
    {1, 6, 6, 8, 16, 1, 1, {1, 0, 1}},
    {2, 8, 7, 2, 3, 1, 1, {2, 0, 1}},
    {1, 9, 9, 2, 2, 3, 3, {1, 2, 2}},
    {1, 10, 8, 1, 1, 2, 3, {3, 0, 1}},
    {1, 4, 4, 2, 2, 3, 1, {2, 2, 3}},
    // Of the same extents, so that only their geometry tells their plans apart.
    {1, 8, 8, 2, 2, 2, 2, {3, 0, 1}},
    {1, 8, 8, 2, 2, 2, 2, {3, 1, 1}},
    {1, 8, 8, 2, 2, 2, 2, {3, 1, 2}}};

// For each pair that meets, f(index in x, in w, in y).
template <class F>
void for_products(const Case& c, F f) {
  const Shape y = c.y_shape();
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t i = 0; i < y[1]; ++i)
      for (int64_t j = 0; j < y[2]; ++j)
        for (int64_t r = 0; r < c.r; ++r)
          for (int64_t s = 0; s < c.s; ++s) {
            const int64_t h = i * c.conv.stride - c.conv.padding + r * c.conv.dilation;
            const int64_t w = j * c.conv.stride - c.conv.padding + s * c.conv.dilation;
            if (h < 0 || h >= c.h || w < 0 || w >= c.w) continue;
            for (int64_t k = 0; k < c.k; ++k)
              for (int64_t ch = 0; ch < c.c; ++ch)
                f(((n * c.h + h) * c.w + w) * c.c + ch, ((k * c.r + r) * c.s + s) * c.c + ch,
                  ((n * y[1] + i) * y[2] + j) * c.k + k);
          }
}

// Small integers: sums of them are exact in every type and order.
std::vector<double> whole_numbers(int64_t n, int64_t first) {
  std::vector<double> v;
  for (int64_t i = 0; i < n; ++i)
    v.push_back(static_cast<double>(((i + first) * 40503 >> 5) % 3 - 1));
  return v;
}

void expect_values(const Pair& got, const std::vector<double>& want, const char* what) {
  EXPECT_EQ(got.values(kCuda), want) << what;
}

void check(const Case& c, DType t, int64_t offset) {
  const auto make = [&](const Shape& s, int64_t first) {
    std::vector<double> all(static_cast<size_t>(offset), 7);
    const std::vector<double> v = whole_numbers(s.numel(), first);
    all.insert(all.end(), v.begin(), v.end());
    return std::pair{v, Pair(t, {static_cast<int64_t>(all.size())}, all)};
  };
  auto [x, x_pair] = make(c.x_shape(), 1);
  auto [w, w_pair] = make(c.w_shape(), 2);
  auto [dy, dy_pair] = make(c.y_shape(), 3);
  std::vector<double> y(dy.size()), dx(x.size()), dw(w.size());
  for_products(c, [&, &x = x, &w = w, &dy = dy](int64_t i, int64_t j, int64_t o) {
    const auto xi = static_cast<size_t>(i), wi = static_cast<size_t>(j);
    const auto yi = static_cast<size_t>(o);
    y[yi] += x[xi] * w[wi], dx[xi] += dy[yi] * w[wi], dw[wi] += x[xi] * dy[yi];
  });
  Pair to_y(t, c.y_shape(), offset), to_dx(t, c.x_shape(), offset), to_dw(t, c.w_shape(), offset);
  const auto at = [&](Pair& p, const Shape& s) {
    return ConstView(static_cast<char*>(p.on_device(kCuda).data) + offset * size_of(t), s, t);
  };
  const ConstView vx = at(x_pair, c.x_shape()), vw = at(w_pair, c.w_shape());
  const ConstView vdy = at(dy_pair, c.y_shape());
  const CudaContext& ctx = cuda_context(0);
  kernels::cuda::conv2d_forward(ctx, vx, vw, c.conv, to_y.on_device(kCuda));
  kernels::cuda::conv2d_backward_input(ctx, vw, vdy, c.conv, to_dx.on_device(kCuda));
  kernels::cuda::conv2d_backward_weight(ctx, vx, vdy, c.conv, to_dw.on_device(kCuda));
  expect_values(to_y, y, "y");
  expect_values(to_dx, dx, "dx");
  expect_values(to_dw, dw, "dw");
}

TEST_F(CudaKernels, ConvolutionsFollowTheirFormula) {
  for (const DType t : kFloating)
    for (const int64_t offset : {0, 1})
      for (const Case& c : kCases) {
        SCOPED_TRACE(
            cat({t, " offset ", offset, " x ", c.x_shape(), " w ", c.w_shape(), " stride ",
                 c.conv.stride, " padding ", c.conv.padding, " dilation ", c.conv.dilation}));
        check(c, t, offset);
      }
}

TEST_F(CudaKernels, ConvolutionsOfNothing) {
  for (const DType t : {DType::f32, DType::f64}) {
    check({0, 5, 6, 3, 4, 3, 3, {1, 1, 1}}, t, 0);  // dw is 0
    check({2, 5, 6, 0, 4, 3, 3, {1, 1, 1}}, t, 0);  // y is 0
    check({2, 5, 6, 3, 0, 3, 3, {1, 1, 1}}, t, 0);  // dx is 0
  }
}

}  // namespace
}  // namespace pinion::testing

#else
#include <gtest/gtest.h>

TEST(CudaConv, IsOfBuildsWithCuda) { GTEST_SKIP() << "a build without CUDA"; }

#endif
