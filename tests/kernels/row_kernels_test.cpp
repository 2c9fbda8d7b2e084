// SPDX-License-Identifier: Apache-2.0
// Kernels over rows and axes, losses and optimizers, against plain loops in double on every rung:
// the shapes that take other paths than the models' usual ones.
#include "kernels_testing.h"

namespace pinion::kernels {
namespace {

void for_rungs(const std::function<void(const CpuContext&, DType)>& f) {
  ThreadPool pool(2);
  for (Isa isa : rungs())
    for (DType t : kFloats) {
      SCOPED_TRACE(label("kernel", isa, t));
      f(CpuContext{&pool, isa}, t);
      if (testing::Test::HasFatalFailure()) return;
    }
}

TEST(RowKernels, SumsOverEveryAxis) {
  const Shape shapes[] = {{1, 1, 1},  {3, 5, 1},   {1, 33, 2},    {1, 32, 10},    {2, 7, 64},
                          {3, 4, 17}, {1, 9, 150}, {1, 70000, 1}, {1, 40000, 3},  {20, 3, 1000},
                          {2, 0, 5},  {0, 3, 4},   {1, 6000, 40}, {2, 100000, 1}, {1, 2, 20000}};
  for_rungs([&](const CpuContext& ctx, DType t) {
    for (const Shape& shape : shapes) {
      const int64_t outer = shape[0], n = shape[1], inner = shape[2];
      const Block x = Block::random(t, shape, 11);
      Block y(t, Shape{outer, inner}, 3);
      sum_axis(ctx, x.view(), 0.5, y.view());
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < n; ++k) {
            sum += x[(o * n + k) * inner + i];
            size += std::abs(x[(o * n + k) * inner + i]);
          }
          const double rounding = tolerance(t) * std::abs(sum) / 2;
          ASSERT_NEAR(y[o * inner + i], sum / 2, rounding + size * (t == DType::f64 ? 1e-14 : 2e-6))
              << shape[0] << "," << n << "," << inner;
        }
      if (outer != 1) continue;
      Block rows(t, Shape{inner}, 3);
      sum_rows(ctx, ConstView(x.view().data, Shape{n, inner}, t), rows.view());
      for (int64_t i = 0; i < inner; ++i)
        ASSERT_NEAR(rows[i], 2 * y[i], 2 * tolerance(t) * (1 + std::abs(rows[i])));
    }
  });
}

TEST(RowKernels, MaxTakesTheFirstAndNanWins) {
  const Shape shapes[] = {{1, 1, 1}, {4, 2, 1}, {3, 77, 1}, {2, 5, 3}, {2, 9, 40}, {1, 1000, 1}};
  for_rungs([&](const CpuContext& ctx, DType t) {
    for (const Shape& shape : shapes)
      for (bool with_nan : {false, true}) {
        const int64_t outer = shape[0], n = shape[1], inner = shape[2];
        Block x = Block::random(t, shape, 12), y(t, Shape{outer, inner});
        Block index(DType::i64, Shape{outer, inner}, -1);
        for (int64_t i = 0; i < x.numel(); i += 3) x.set(i, 2);  // ties for the maximum
        if (with_nan) x.set(x.numel() / 2, kNan), x.set(x.numel() - 1, kNan);
        max_axis(ctx, x.view(), y.view(), index.view());
        for (int64_t o = 0; o < outer; ++o)
          for (int64_t i = 0; i < inner; ++i) {
            int64_t best = 0;
            const auto at = [&](int64_t k) { return x[(o * n + k) * inner + i]; };
            for (int64_t k = 1; k < n; ++k)
              if (!std::isnan(at(best)) && (at(k) > at(best) || std::isnan(at(k)))) best = k;
            ASSERT_EQ(index[o * inner + i], best);
            ASSERT_TRUE(y[o * inner + i] == at(best) || std::isnan(at(best)));
          }
      }
  });
}

TEST(RowKernels, SwapsAxes) {
  const Shape shapes[] = {{1, 1, 1, 1, 1},  {2, 3, 4, 5, 1},  {1, 33, 1, 70, 1}, {3, 16, 1, 16, 1},
                          {2, 4, 1, 8, 64}, {1, 1, 9, 17, 1}, {1, 17, 9, 1, 1},  {2, 5, 3, 7, 3}};
  ThreadPool pool(2);
  for (Isa isa : rungs())
    for (DType t : {DType::f32, DType::f64, DType::bf16, DType::u8})
      for (const Shape& s : shapes) {
        Block x(t, s), y(t, Shape{s[0], s[3], s[2], s[1], s[4]});
        for (int64_t i = 0; i < x.numel(); ++i) x.set(i, static_cast<double>(i * 7 % 251));
        swap_axes(CpuContext{&pool, isa}, x.view(), y.view());
        int64_t at = 0;
        for (int64_t a = 0; a < s[0]; ++a)
          for (int64_t n = 0; n < s[3]; ++n)
            for (int64_t b = 0; b < s[2]; ++b)
              for (int64_t m = 0; m < s[1]; ++m)
                for (int64_t c = 0; c < s[4]; ++c, ++at)
                  ASSERT_EQ(y[at], x[(((a * s[1] + m) * s[2] + b) * s[3] + n) * s[4] + c])
                      << label("swap_axes", isa, t, at);
      }
}

TEST(RowKernels, CopiesAndExpands) {
  for_rungs([&](const CpuContext& ctx, DType t) {
    for (int64_t inner : {1, 3, 40}) {
      const Block x = Block::random(t, Shape{5, 2, inner}, 13);
      Block y(t, Shape{5, 6, inner}, 9), back(t, Shape{5, 2, inner});
      copy_into(ctx, x.view(), 3, y.view());
      for (int64_t i = 0; i < y.numel(); ++i) {
        const int64_t k = i / inner % 6;
        const int64_t from = (i / inner / 6 * 2 + k - 3) * inner + i % inner;
        ASSERT_EQ(y[i], k == 3 || k == 4 ? x[from] : 9);
      }
      copy_from(ctx, y.view(), 3, back.view());
      ASSERT_TRUE(back.same_bits(x));
      Block wide(t, Shape{5, 2, 7, inner});
      expand_axis(ctx, x.view(), 0.5, View(wide.view().data, Shape{10, 7, inner}, t));
      for (int64_t i = 0; i < wide.numel(); ++i)
        ASSERT_EQ(wide[i], x[i / inner / 7 * inner + i % inner] / 2);
      const Block b = Block::random(t, Shape{inner}, 14);
      Block sum(t, Shape{10, inner});
      add_bias(ctx, ConstView(x.view().data, Shape{10, inner}, t), b.view(), sum.view());
      for (int64_t i = 0; i < sum.numel(); ++i)
        ASSERT_NEAR(sum[i], x[i] + b[i % inner], tolerance(t) * 4);
    }
  });
}

TEST(RowKernels, LooksUpAndAccumulates) {
  for_rungs([&](const CpuContext& ctx, DType t) {
    for (int64_t cols : {1, 5, 16, 100}) {
      constexpr int64_t kIds = 9, kVocabulary = 6;
      const double ids[kIds] = {3, 0, 3, 5, 3, 1, 0, 3, 1};
      Block id(DType::i64, Shape{kIds});
      for (int64_t i = 0; i < kIds; ++i) id.set(i, ids[i]);
      const Block w = Block::random(t, Shape{kVocabulary, cols}, 15);
      const Block dy = Block::random(t, Shape{kIds, cols}, 16);
      Block y(t, Shape{kIds, cols}), dw(t, Shape{kVocabulary, cols}, 7);
      embedding_forward(ctx, w.view(), id.view(), y.view());
      embedding_backward(ctx, id.view(), dy.view(), 1, dw.view());
      for (int64_t c = 0; c < cols; ++c) {
        double want[kVocabulary] = {};
        for (int64_t i = 0; i < kIds; ++i) {
          const auto v = static_cast<int64_t>(ids[i]);
          ASSERT_EQ(y[i * cols + c], w[v * cols + c]);
          if (v != 1) want[v] += dy[i * cols + c];
        }
        for (int64_t v = 0; v < kVocabulary; ++v)
          ASSERT_NEAR(dw[v * cols + c], want[v], tolerance(t, 8) * 4) << "id " << v;
      }
      for (double bad : {-1.0, 6.0, 1e15}) {
        id.set(4, bad);
        EXPECT_THROW(embedding_forward(ctx, w.view(), id.view(), y.view()), Error);
        EXPECT_THROW(embedding_backward(ctx, id.view(), dy.view(), 1, dw.view()), Error);
      }
    }
  });
}

TEST(RowKernels, GathersAndScatters) {
  for_rungs([&](const CpuContext& ctx, DType t) {
    const Block x = Block::random(t, Shape{2, 4, 3}, 17), dy = Block::random(t, Shape{2, 5, 3}, 18);
    Block index(DType::i64, Shape{2, 5, 3}), y(t, Shape{2, 5, 3}), dx(t, Shape{2, 4, 3}, 8);
    for (int64_t i = 0; i < index.numel(); ++i) index.set(i, static_cast<double>(i * 5 % 4));
    gather(ctx, x.view(), index.view(), y.view());
    gather_backward(ctx, index.view(), dy.view(), dx.view());
    std::vector<double> want(24);
    for (int64_t i = 0; i < y.numel(); ++i) {
      const int64_t from = (i / 15 * 4 + static_cast<int64_t>(index[i])) * 3 + i % 3;
      ASSERT_EQ(y[i], x[from]);
      want[static_cast<size_t>(from)] += dy[i];
    }
    for (int64_t i = 0; i < 24; ++i)
      ASSERT_NEAR(dx[i], want[static_cast<size_t>(i)], 4 * tolerance(t, 8));
    index.set(7, 4);
    EXPECT_THROW(gather(ctx, x.view(), index.view(), y.view()), Error);
    EXPECT_THROW(gather_backward(ctx, index.view(), dy.view(), dx.view()), Error);
  });
}

TEST(RowKernels, SoftmaxAndItsLogarithm) {
  for_rungs([&](const CpuContext& ctx, DType t) {
    for (int64_t n : {1, 2, 3, 8, 17, 64, 200, 761}) {
      Block x = Block::random(t, Shape{3, n}, 19, 6), y(t, Shape{3, n}), z(t, Shape{3, n});
      if (n > 2) x.set(1, -kInf);  // a masked position has probability 0
      softmax_forward(ctx, x.view(), y.view());
      log_softmax_forward(ctx, x.view(), z.view());
      for (int64_t r = 0; r < 3; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += std::exp(x[r * n + i]);
        for (int64_t i = 0; i < n; ++i) {
          const double want = x[r * n + i] - std::log(sum);
          ASSERT_NEAR(y[r * n + i], std::exp(want), tolerance(t, 8) * std::exp(want) + 1e-7);
          if (std::isinf(want)) {
            ASSERT_EQ(z[r * n + i], want);
          } else {
            ASSERT_NEAR(z[r * n + i], want, tolerance(t, 16) * (1 + std::abs(want)));
          }
        }
      }
      softmax_forward(ctx, x.view(), x.view());
      ASSERT_TRUE(x.same_bits(y)) << "in place, n = " << n;
      x.set(n / 2, kNan);
      softmax_forward(ctx, x.view(), y.view());
      ASSERT_TRUE(std::isnan(y[0]) && std::isnan(y[n - 1]) && !std::isnan(y[n]));
    }
  });
}

struct CrossEntropy {
  double loss = 0, total = 0;
  std::vector<double> dx;
};
CrossEntropy naive(const Block& x, const Block& target, const Block* w, int64_t ignore, double s) {
  const int64_t n = target.numel(), classes = x.numel() / n;
  CrossEntropy out;
  out.dx.resize(static_cast<size_t>(x.numel()));
  for (int64_t r = 0; r < n; ++r)
    if (target[r] != static_cast<double>(ignore)) out.total += w ? (*w)[r] : 1;
  for (int64_t r = 0; r < n; ++r) {
    if (target[r] == static_cast<double>(ignore)) continue;
    const double weight = (w ? (*w)[r] : 1) / out.total;
    double sum = 0, mean = 0;
    for (int64_t c = 0; c < classes; ++c) {
      sum += std::exp(x[r * classes + c]);
      mean += x[r * classes + c] / static_cast<double>(classes);
    }
    const auto t = static_cast<int64_t>(target[r]);
    const double lse = std::log(sum);
    out.loss += weight * (1 - s) * (lse - x[r * classes + t]);
    if (s > 0) out.loss += weight * s * (lse - mean);
    for (int64_t c = 0; c < classes; ++c)
      out.dx[static_cast<size_t>(r * classes + c)] =
          weight * (std::exp(x[r * classes + c]) / sum - s / static_cast<double>(classes) -
                    (c == t ? 1 - s : 0));
  }
  return out;
}

TEST(RowKernels, CrossEntropyWithEveryOption) {
  for_rungs([&](const CpuContext& ctx, DType t) {
    const DType wide = t == DType::f64 ? DType::f64 : DType::f32;
    const double subnormal = t == DType::f16 ? 6e-8 : 0;  // the smallest step of the type
    for (int64_t classes : {1, 2, 5, 16, 17, 100, 761})
      for (int64_t n : {1, 7, 8, 33})
        for (double smoothing : {0.0, 0.1})
          for (bool weighted : {false, true}) {
            Block x = Block::random(t, Shape{n, classes}, 20, 5);
            Block target(DType::i64, Shape{n}), weight = Block::random(DType::f32, Shape{n}, 21, 1);
            for (int64_t r = 0; r < n; ++r) {
              target.set(r, r % 5 == 3 ? -100 : static_cast<double>(r * 11 % classes));
              weight.set(r, std::abs(weight[r]));
              const int64_t other = r * classes + (r * 11 + 1) % classes;  // a class masked out
              if (smoothing == 0 && classes > 1) x.set(other, -kInf);
            }
            Block loss(wide, Shape{}), total(wide, Shape{}), dx(t, Shape{n, classes}, 4);
            const auto run = [&](View gradient) {
              cross_entropy(ctx, x.view(), target.view(),
                            weighted ? std::as_const(weight).view() : ConstView(), -100, smoothing,
                            loss.view(), total.view(), gradient);
            };
            const CrossEntropy want =
                naive(x, target, weighted ? &weight : nullptr, -100, smoothing);
            run(dx.view());
            const double rel = t == DType::f64 ? 1e-13 : 4e-6;
            ASSERT_NEAR(loss[0], want.loss, rel * (1 + want.loss)) << classes << " classes";
            ASSERT_NEAR(total[0], want.total, rel * want.total);
            for (int64_t i = 0; i < x.numel(); ++i)
              ASSERT_NEAR(dx[i], want.dx[static_cast<size_t>(i)],
                          2 * tolerance(t) * std::abs(want.dx[static_cast<size_t>(i)]) +
                              rel / want.total + subnormal)
                  << classes << " classes, " << n << " rows, at " << i;
            const double with_gradient = loss[0];
            run(View());
            ASSERT_NEAR(loss[0], with_gradient, rel) << "without a gradient";
            target.set(n / 2, static_cast<double>(classes));
            run(dx.view());
            ASSERT_TRUE(std::isnan(total[0])) << "a target outside the classes";
          }
  });
}

// Outputs of many megabytes go past the caches, unless they lie over an input: the same numbers.
TEST(RowKernels, StreamedOutputsEqualOnesInPlace) {
  ThreadPool pool(2);
  for (Isa isa : rungs())
    for (int64_t cols : {512, 509}) {  // rows that are aligned, and rows that are not
      const CpuContext ctx{&pool, isa};
      const Shape shape{4500, cols};  // 9 MiB
      const Block x = Block::random(DType::f32, shape, 22),
                  g = Block::random(DType::f32, shape, 23);
      const Block b = Block::random(DType::f32, Shape{cols}, 24);
      Block mean(DType::f32, Shape{4500}), rstd(DType::f32, Shape{4500});
      const auto check = [&](const char* name, const std::function<void(ConstView, View)>& run) {
        Block apart(DType::f32, shape), over = x;
        run(x.view(), apart.view());
        run(std::as_const(over).view(), over.view());
        EXPECT_TRUE(apart.same_bits(over)) << label(name, isa, DType::f32, cols);
      };
      check("exp", [&](auto in, auto y) { exp_forward(ctx, in, y); });
      check("add_bias", [&](auto in, auto y) { add_bias(ctx, in, b.view(), y); });
      check("log_softmax", [&](auto in, auto y) { log_softmax_forward(ctx, in, y); });
      check("softmax_backward", [&](auto in, auto y) { softmax_backward(ctx, in, g.view(), y); });
      check("layer_norm", [&](auto in, auto y) {
        LayerNormArgs args{.eps = 1e-5, .x = in, .gamma = b.view(), .beta = b.view()};
        args.y = y, args.mean = mean.view(), args.spread = rstd.view();
        layer_norm_forward(ctx, args);
      });
    }
}

}  // namespace
}  // namespace pinion::kernels
