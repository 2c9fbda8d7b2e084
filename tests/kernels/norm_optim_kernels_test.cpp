// SPDX-License-Identifier: Apache-2.0
// Layer normalisation and the optimizers' kernels against plain loops in double, on every rung.
#include "kernels_testing.h"

namespace pinion::kernels {
namespace {

TEST(NormKernels, LayerNormForwardAndBackward) {
  ThreadPool pool(2);
  for (Isa isa : rungs())
    for (DType t : kFloats)
      for (int64_t n : {1, 3, 8, 33, 512})
        for (int64_t rows : {1, 5, 300}) {
          const CpuContext ctx{&pool, isa};
          const DType wide = t == DType::f64 ? DType::f64 : DType::f32;
          const Block x = Block::random(t, Shape{rows, n}, 31, 3);
          const Block dy = Block::random(t, Shape{rows, n}, 32, 1);
          const Block gamma = Block::random(t, Shape{n}, 33), beta = Block::random(t, Shape{n}, 34);
          Block y(t, Shape{rows, n}), mean(wide, Shape{rows}), rstd(wide, Shape{rows});
          Block dx(t, Shape{rows, n}), dgamma(t, Shape{n}), dbeta(t, Shape{n});
          LayerNormArgs args{.eps = 1e-5, .x = x.view(), .gamma = gamma.view()};
          args.beta = beta.view(), args.y = y.view();
          args.mean = mean.view(), args.spread = rstd.view();
          layer_norm_forward(ctx, args);
          args.dy = dy.view(), args.dx = dx.view();
          args.dgamma = dgamma.view(), args.dbeta = dbeta.view();
          layer_norm_backward(ctx, args);
          std::vector<double> want_dgamma(static_cast<size_t>(n)), want_dbeta(want_dgamma);
          const double count = static_cast<double>(n), slack = tolerance(t, 40);
          for (int64_t r = 0; r < rows; ++r) {
            double mu = 0, variance = 0, mean_g = 0, mean_gx = 0;
            for (int64_t i = 0; i < n; ++i) mu += x[r * n + i] / count;
            for (int64_t i = 0; i < n; ++i) variance += std::pow(x[r * n + i] - mu, 2) / count;
            const double scale = 1 / std::sqrt(variance + 1e-5);
            ASSERT_NEAR(rstd[r], scale, 1e-5 * scale);
            const auto xhat = [&](int64_t i) { return (x[r * n + i] - mu) * scale; };
            for (int64_t i = 0; i < n; ++i) {
              mean_g += dy[r * n + i] * gamma[i] / count;
              mean_gx += dy[r * n + i] * gamma[i] * xhat(i) / count;
              want_dgamma[static_cast<size_t>(i)] += dy[r * n + i] * xhat(i);
              want_dbeta[static_cast<size_t>(i)] += dy[r * n + i];
            }
            if (n == 1) continue;  // x - mean is 0 or a rounding error, times up to 316
            for (int64_t i = 0; i < n; ++i) {
              ASSERT_NEAR(y[r * n + i], xhat(i) * gamma[i] + beta[i], slack * 8)
                  << label("forward", isa, t, n);
              const double want = scale * (dy[r * n + i] * gamma[i] - mean_g - xhat(i) * mean_gx);
              ASSERT_NEAR(dx[r * n + i], want, slack * 8 * (1 + scale))
                  << label("dx", isa, t, n) << ", " << rows << " rows";
            }
          }
          if (n == 1) continue;
          for (int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<size_t>(i);
            ASSERT_NEAR(dgamma[i], want_dgamma[at],
                        slack * 8 * std::sqrt(double(rows)) * (1 + std::abs(want_dgamma[at])))
                << label("dgamma", isa, t, n);
            ASSERT_NEAR(dbeta[i], want_dbeta[at],
                        slack * 8 * std::sqrt(double(rows)) * (1 + std::abs(want_dbeta[at])))
                << label("dbeta", isa, t, n);
          }
        }
}

// The variance is of the differences from the mean: a large mean costs no digits.
TEST(NormKernels, LayerNormKeepsItsDigitsFarFromZero) {
  ThreadPool pool(1);
  for (Isa isa : rungs()) {
    constexpr int64_t n = 64;
    Block x(DType::f32, Shape{1, n}), one(DType::f32, Shape{n}, 1), zero(DType::f32, Shape{n});
    for (int64_t i = 0; i < n; ++i) x.set(i, 100000 + static_cast<double>(i % 2));
    Block y(DType::f32, Shape{1, n}), mean(DType::f32, Shape{1}), rstd(DType::f32, Shape{1});
    LayerNormArgs args{.x = x.view(), .gamma = one.view(), .beta = zero.view()};
    args.y = y.view(), args.mean = mean.view(), args.spread = rstd.view();
    layer_norm_forward(CpuContext{&pool, isa}, args);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], i % 2 ? 1 : -1, 1e-5);
  }
}

struct AdamCase {
  bool amsgrad, decoupled;
  double decay, grad_scale;
};

TEST(OptimKernels, AdamFollowsItsDefinition) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (DType t : {DType::f32, DType::f64})
      for (const AdamCase& c : {AdamCase{false, false, 0, 1}, AdamCase{false, false, 0.1, 0.5},
                                AdamCase{false, true, 0.1, 1}, AdamCase{true, true, 0.01, 2}})
        for (int64_t n : {1, 7, 8, 61}) {
          AdamStep s;
          s.lr = 0.01, s.weight_decay = c.decay, s.decoupled = c.decoupled;
          s.grad_scale = c.grad_scale;
          Block w = Block::random(t, Shape{n}, 41), m(t, Shape{n}), v(t, Shape{n}),
                top(t, Shape{n});
          std::vector<double> ww, wm(static_cast<size_t>(n)), wv(wm), wtop(wm);
          for (int64_t i = 0; i < n; ++i) ww.push_back(w[i]);
          for (s.step = 1; s.step <= 5; ++s.step) {
            const Block g = Block::random(t, Shape{n}, 41 + static_cast<uint32_t>(s.step));
            adam_step(CpuContext{&pool, isa}, w.view(), g.view(), m.view(), v.view(),
                      c.amsgrad ? top.view() : View(), s);
            for (size_t i = 0; i < wm.size(); ++i) {
              double d = g[static_cast<int64_t>(i)] * s.grad_scale;
              if (c.decoupled)
                ww[i] *= 1 - s.lr * c.decay;
              else
                d += c.decay * ww[i];
              wm[i] = 0.9 * wm[i] + 0.1 * d;
              wv[i] = 0.999 * wv[i] + 0.001 * d * d;
              wtop[i] = std::max(wtop[i], wv[i]);
              const double step = static_cast<double>(s.step);
              const double root = std::sqrt(c.amsgrad ? wtop[i] : wv[i]);
              ww[i] -= s.lr / (1 - std::pow(0.9, step)) * wm[i] /
                       (root / std::sqrt(1 - std::pow(0.999, step)) + 1e-8);
            }
          }
          expect_near(
              w, [&](int64_t i) { return ww[static_cast<size_t>(i)]; },
              t == DType::f64 ? 1e-13 : 2e-6, 0.1, label("adam", isa, t, n));
          expect_near(
              v, [&](int64_t i) { return wv[static_cast<size_t>(i)]; },
              t == DType::f64 ? 1e-13 : 2e-6, 1e-4, label("adam v", isa, t, n));
        }
}

// Packets that are not full included.
TEST(OptimKernels, LowPrecisionCopiesAreCastsOfTheNewWeights) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (DType t : {DType::bf16, DType::f16})
      for (int64_t n : {1, 7, 8, 61}) {
        const CpuContext ctx{&pool, isa};
        const Block g = Block::random(DType::f32, Shape{n}, 61);
        Block w = Block::random(DType::f32, Shape{n}, 62), m(DType::f32, Shape{n}), v = m, b = m;
        const auto expect_copy = [&](const char* what, auto step) {
          Block low(t, Shape{n}), want(t, Shape{n});
          step(low.view());
          cast(ctx, w.view(), want.view());
          EXPECT_TRUE(low.same_bits(want)) << label(what, isa, t, n);
        };
        expect_copy("adam", [&](View low) {
          adam_step(ctx, w.view(), g.view(), m.view(), v.view(), {}, {.low = low});
        });
        expect_copy("amsgrad", [&](View low) {
          adam_step(ctx, w.view(), g.view(), m.view(), v.view(), b.view(), {.low = low});
        });
        expect_copy("sgd", [&](View low) {
          sgd_step(ctx, w.view(), g.view(), {}, {.lr = 0.1, .low = low});
        });
        expect_copy("momentum", [&](View low) {
          sgd_step(ctx, w.view(), g.view(), b.view(), {.lr = 0.1, .momentum = 0.9, .low = low});
        });
      }
}

TEST(OptimKernels, SgdFollowsItsDefinition) {
  ThreadPool pool(1);
  for (Isa isa : rungs())
    for (bool momentum : {false, true})
      for (bool nesterov : {false, true})
        for (int64_t n : {1, 8, 61}) {
          SgdStep s;
          s.lr = 0.1, s.momentum = momentum ? 0.9 : 0, s.weight_decay = 0.01, s.grad_scale = 0.5;
          s.nesterov = nesterov && momentum, s.dampening = s.nesterov ? 0 : 0.2;
          Block w = Block::random(DType::f64, Shape{n}, 51), b(DType::f64, Shape{n}, kNan);
          std::vector<double> ww, wb(static_cast<size_t>(n));
          for (int64_t i = 0; i < n; ++i) ww.push_back(w[i]);
          for (int step = 0; step < 4; ++step) {
            const Block g = Block::random(DType::f64, Shape{n}, 52 + static_cast<uint32_t>(step));
            s.first = step == 0;  // the buffer holds NaN until then
            sgd_step(CpuContext{&pool, isa}, w.view(), g.view(), momentum ? b.view() : View(), s);
            for (size_t i = 0; i < ww.size(); ++i) {
              double d = 0.5 * g[static_cast<int64_t>(i)] + 0.01 * ww[i];
              if (momentum) {
                wb[i] = s.first ? d : 0.9 * wb[i] + (1 - s.dampening) * d;
                d = s.nesterov ? d + 0.9 * wb[i] : wb[i];
              }
              ww[i] -= 0.1 * d;
            }
          }
          expect_near(
              w, [&](int64_t i) { return ww[static_cast<size_t>(i)]; }, 1e-13, 0.1,
              label("sgd", isa, DType::f64, n));
        }
}

}  // namespace
}  // namespace pinion::kernels
