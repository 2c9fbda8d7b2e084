// SPDX-License-Identifier: Apache-2.0
// The image kernels of kernels/cuda against those of the CPU: channels and pixels around the tile
// of each, addresses that allow no vectors, and values outside the ordinary.
#include <limits>

#include "pinion/kernels/kernels.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

DType wide(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }
double bound(DType t) { return t == DType::f64 ? 1e-13 : t == DType::f32 ? 1e-5 : 1e-2; }

// Above zero, so that no sum of them loses its digits.
std::vector<double> positive(const Shape& shape) {
  std::vector<double> v;
  for (int64_t i = 0; i < shape.numel(); ++i)
    v.push_back(1.5 + std::sin(static_cast<double>(i * 7)));
  return v;
}

struct ImageCase {
  Shape shape;
  int64_t groups, offset;
};
const ImageCase kBatches[] = {
    {{4, 3, 2, 7}, 2, 0},   {{2, 5, 5, 64}, 1, 0},  {{2, 5, 5, 64}, 2, 1},
    {{1, 1, 2, 300}, 1, 0}, {{6, 40, 30, 8}, 3, 0}, {{1, 50, 50, 1}, 1, 0},
};

TEST_F(CudaKernels, BatchNormForward) {
  for (const DType t : kFloating)
    for (const auto& [s, groups, offset] : kBatches)
      for (const bool extra : {false, true}) {
        SCOPED_TRACE(cat({t, " ", s, " groups ", groups, extra ? " residual, relu" : ""}));
        const Shape channels{s[3]}, each{groups, s[3]};
        Pair x(t, s, positive(s), offset), residual(t, s, offset, 0.5), y(t, s, offset);
        Pair gamma(wide(t), channels, 3), beta(wide(t), channels, 5);
        Pair mean(wide(t), each), var(wide(t), each);
        Pair running_mean(wide(t), channels), running_var(wide(t), channels);
        Pair batches(DType::i64, Shape{}, std::vector<double>{40});
        kernels::BatchNorm b{groups, 1e-5, 0.3, extra};
        on_both([&](auto& ctx, Device d) {
          kernels::batch_norm_statistics(
              ctx, x.on_device(d), b, mean.on_device(d), var.on_device(d),
              extra ? running_mean.on_device(d) : View(), extra ? running_var.on_device(d) : View(),
              extra ? batches.on_device(d) : View());
          kernels::batch_norm_apply(ctx, x.on_device(d), mean.on_device(d), var.on_device(d),
                                    gamma.on_device(d), beta.on_device(d),
                                    extra ? residual.on_device(d) : View(), b, y.on_device(d));
        });
        const double narrow = t == DType::f64 ? 1e-13 : 1e-5;
        mean.expect_close(narrow), var.expect_close(narrow);
        running_mean.expect_close(narrow), running_var.expect_close(narrow);
        y.expect_close(bound(t));
        batches.expect_same();
        EXPECT_EQ(batches.values(kCuda)[0], extra ? 40 + double(groups) : 40);
      }
}

// Far from zero, where a sum of squares alone would have no digits left.
TEST_F(CudaKernels, BatchNormStatisticsKeepTheirDigits) {
  std::vector<double> values;
  for (int64_t i = 0; i < 2 * 30 * 30 * 8; ++i) values.push_back(4096 + i * 7 % 11);
  Pair x(DType::f32, {2, 30, 30, 8}, values), mean(DType::f32, {1, 8}), var(DType::f32, {1, 8});
  on_both([&](auto& ctx, Device d) {
    kernels::batch_norm_statistics(ctx, x.on_device(d), {}, mean.on_device(d), var.on_device(d), {},
                                   {}, {});
  });
  for (const Device d : {kCpu, kCuda})
    for (const double v : var.values(d)) EXPECT_NEAR(v, 10, 0.05);  // of 0 to 10, nearly uniform
  var.expect_close(1e-4);
}

TEST_F(CudaKernels, BatchNormBackward) {
  for (const DType t : kFloating)
    for (const auto& [s, groups, offset] : kBatches)
      for (const bool relu : {false, true})
        for (const bool statistics : {false, true}) {
          SCOPED_TRACE(cat({t, " ", s, " groups ", groups, relu ? " relu" : "",
                            statistics ? " with statistics" : ""}));
          const Shape channels{s[3]}, each{groups, s[3]};
          Pair x(t, s, offset), y(t, s, offset, 2), dy(t, s, offset, 0.5), dx(t, s, offset);
          Pair dresidual(t, s, offset), mean(wide(t), each, 0, 0.1);
          Pair var(wide(t), each, std::vector<double>(static_cast<size_t>(each.numel()), 0.7));
          Pair gamma(wide(t), channels, 3), sums(wide(t), {2, groups, s[3]});
          Pair dgamma(wide(t), channels), dbeta(wide(t), channels);
          const kernels::BatchNorm b{groups, 1e-5, 0.1, relu};
          on_both([&](auto& ctx, Device d) {
            kernels::batch_norm_backward_sums(
                ctx, x.on_device(d), mean.on_device(d), var.on_device(d),
                relu ? y.on_device(d) : View(), dy.on_device(d), b, sums.on_device(d),
                dgamma.on_device(d), statistics ? dbeta.on_device(d) : View());
            kernels::batch_norm_backward(ctx, statistics ? x.on_device(d) : View(),
                                         mean.on_device(d), var.on_device(d), gamma.on_device(d),
                                         relu ? y.on_device(d) : View(), dy.on_device(d),
                                         statistics ? sums.on_device(d) : View(), b,
                                         dx.on_device(d), relu ? dresidual.on_device(d) : View());
          });
          sums.expect_close(t == DType::f64 ? 1e-12 : 1e-5);
          dgamma.expect_close(t == DType::f64 ? 1e-12 : 1e-5);
          dbeta.expect_close(t == DType::f64 ? 1e-12 : 1e-5);
          dx.expect_close(bound(t));
          dresidual.expect_same();
        }
}

struct PoolCase {
  Shape x, y;
  kernels::Pool2d window;
  int64_t offset;
};
const PoolCase kPools[] = {
    {{2, 9, 8, 3}, {2, 5, 4, 3}, {3, 2, 1}, 0},    {{1, 12, 12, 16}, {1, 6, 6, 16}, {3, 2, 1}, 0},
    {{1, 5, 7, 16}, {1, 3, 5, 16}, {3, 1, 0}, 1},  {{2, 7, 8, 5}, {2, 2, 3, 5}, {2, 3, 0}, 0},
    {{1, 17, 33, 8}, {1, 2, 4, 8}, {16, 8, 4}, 0},
};

TEST_F(CudaKernels, MaxPool) {
  for (const DType t : kFloating)
    for (const auto& [in, out, moved, offset] : kPools)
      for (const bool special : {false, true}) {
        const kernels::Pool2d window = moved;
        SCOPED_TRACE(cat({t, " ", in, " window ", window.window, special ? " with NaN" : ""}));
        std::vector<double> values;  // with ties
        for (int64_t i = 0; i < in.numel(); ++i)
          values.push_back(special && i % 23 == 5 ? kNan : static_cast<double>(i * 5 % 13 - 6));
        Pair x(t, in, values, offset);
        Pair y(t, out, offset), index(DType::u8, out, offset), dy(t, out, offset, 2);
        Pair dx(t, in, offset), plain(t, out, offset);
        on_both([&](auto& ctx, Device d) {
          kernels::max_pool_forward(ctx, x.on_device(d), window, y.on_device(d),
                                    index.on_device(d));
          kernels::max_pool_forward(ctx, x.on_device(d), window, plain.on_device(d), {});
          kernels::max_pool_backward(ctx, index.on_device(d), dy.on_device(d), window,
                                     dx.on_device(d));
        });
        y.expect_close(0), plain.expect_close(0);
        index.expect_same();
        dx.expect_close(bound(t));
      }
}

TEST_F(CudaKernels, AveragePool) {
  const PoolCase adaptive[] = {{{2, 7, 5, 3}, {2, 3, 2, 3}, {}, 0},
                               {{1, 2, 3, 16}, {1, 5, 3, 16}, {}, 0},
                               {{2, 7, 7, 64}, {2, 1, 1, 64}, {}, 1}};
  std::vector<PoolCase> cases(std::begin(kPools), std::end(kPools));
  cases.insert(cases.end(), std::begin(adaptive), std::end(adaptive));
  for (const DType t : kFloating)
    for (const auto& [in, out, moved, offset] : cases) {
      const kernels::Pool2d window = moved;
      SCOPED_TRACE(cat({t, " ", in, " to ", out, " window ", window.window}));
      Pair x(t, in, positive(in), offset), y(t, out, offset);
      Pair dy(t, out, positive(out), offset), dx(t, in, offset);
      on_both([&](auto& ctx, Device d) {
        kernels::avg_pool_forward(ctx, x.on_device(d), window, y.on_device(d));
        kernels::avg_pool_backward(ctx, dy.on_device(d), window, dx.on_device(d));
      });
      y.expect_close(bound(t));
      dx.expect_close(bound(t));
    }
}

TEST_F(CudaKernels, ImagesArePrepared) {
  const kernels::ColourScale scale{{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}};
  const Shape bytes{2, 9, 11, 3};
  std::vector<double> values;
  for (int64_t i = 0; i < bytes.numel(); ++i) values.push_back(static_cast<double>(i * 37 % 256));
  for (const DType t : kFloating)
    for (const int64_t channels : {3, 4, 8})
      for (const int64_t offset : {0, 1}) {
        SCOPED_TRACE(cat({t, " ", channels, " channels, offset ", offset}));
        Pair x(DType::u8, bytes, values), place(DType::i32, {2, 3}, {1, 4, 0, 3, 2, 1});
        Pair y(t, {2, 6, 7, channels}, offset);
        on_both([&](auto& ctx, Device d) {
          kernels::prepare_images(ctx, x.on_device(d), place.on_device(d), scale, y.on_device(d));
        });
        y.expect_close(bound(t));
        const std::vector<double> got = y.values(kCuda);
        // Row 2, column 0 of the second image is pixel (3 + 2, 2 + 6): flipped.
        const double byte = values[static_cast<size_t>(((9 + 5) * 11 + 8) * 3 + 1)];
        const auto at = static_cast<size_t>(((6 + 2) * 7 + 0) * channels);
        EXPECT_NEAR(got[at + 1], (byte / 255 - 0.456) / 0.224, 2.2 * bound(t));
        if (channels > 3) {
          EXPECT_EQ(got[at + 3], 0);
        }
      }
}

}  // namespace
}  // namespace pinion::testing
