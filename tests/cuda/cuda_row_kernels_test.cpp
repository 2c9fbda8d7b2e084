// SPDX-License-Identifier: Apache-2.0
// Kernels of kernels/cuda that look along rows and axes, or by index, against those of the CPU:
// extents around the tile of each, where tests of whole ops have few.
#include <gmock/gmock.h>

#include <limits>

#include "pinion/tests/support/device_pair.h"
#ifdef PINION_WITH_CUDA
#include "pinion/kernels/cuda/matmul_library.h"
#endif

namespace pinion::testing {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> numbers(int64_t n, double (*f)(int64_t)) {
  std::vector<double> v;
  for (int64_t i = 0; i < n; ++i) v.push_back(f(i));
  return v;
}

TEST_F(CudaKernels, MaximumIsTheFirstOfEqualsAndNanWins) {
  const auto ties = [](int64_t i) { return static_cast<double>(i * 5 % 7); };
  const auto some_nan = [](int64_t i) { return i % 97 == 41 ? kNan : std::cos(double(i)); };
  const auto low = [](int64_t) { return -kInfinity; };
  for (const DType t : {DType::f32, DType::bf16})
    for (const Shape& s : {Shape{3, 1, 1}, {2, 40, 1}, {2, 300, 1}, {1, 1000, 1}, {2, 9, 70}})
      for (const auto f : {+ties, +some_nan, +low}) {
        SCOPED_TRACE(cat({t, " ", s}));
        Pair x(t, s, numbers(s.numel(), f)), y(t, s.without(1)), index(DType::i64, s.without(1));
        on_both([&](auto& ctx, Device d) {
          kernels::max_axis(ctx, x.on_device(d), y.on_device(d), index.on_device(d));
        });
        y.expect_close(0);
        index.expect_same();
      }
}

TEST_F(CudaKernels, AxesAreSwappedWhateverTheWordAndBoundary) {
  for (const DType t : {DType::u8, DType::bf16, DType::f32, DType::i64})
    for (const int64_t offset : {0, 1})
      for (const Shape& s : {Shape{1, 1, 1, 1, 1},
                             {2, 33, 1, 65, 1},
                             {1, 1, 31, 32, 1},
                             {2, 3, 4, 5, 1},
                             {2, 3, 4, 5, 8},
                             {1, 7, 2, 3, 3}}) {
        SCOPED_TRACE(cat({t, " offset ", offset, " ", s}));
        const Shape swapped{s[0], s[3], s[2], s[1], s[4]};
        Pair x(t, s, offset, 100), y(t, swapped, offset);
        on_both(
            [&](auto& ctx, Device d) { kernels::swap_axes(ctx, x.on_device(d), y.on_device(d)); });
        y.expect_same();
      }
}

TEST_F(CudaKernels, BlocksAreCopiedIntoAndFrom) {
  for (const DType t : {DType::u8, DType::bf16, DType::f64})
    for (const int64_t inner : {1, 3, 16})
      for (const int64_t at : {0, 2}) {
        SCOPED_TRACE(cat({t, " inner ", inner, " at ", at}));
        Pair small(t, {5, 4, inner}, 0, 100), large(t, {5, 9, inner}, 0, 50);
        Pair back(t, {5, 4, inner});
        on_both([&](auto& ctx, Device d) {
          kernels::copy_into(ctx, small.on_device(d), at, large.on_device(d));
          kernels::copy_from(ctx, large.on_device(d), at + 1, back.on_device(d));
        });
        large.expect_same();
        back.expect_same();
      }
}

// Repeated ids: the sum is taken in their order.
TEST_F(CudaKernels, LookupsAndTheirGradients) {
  for (const DType t : kFloating)
    for (const int64_t cols : {1, 31, 256, 300})
      for (const int64_t n : {1, 33, 200}) {
        SCOPED_TRACE(cat({t, " cols ", cols, " n ", n}));
        constexpr int64_t kWords = 19;
        const auto id = [](int64_t i) { return static_cast<double>(i * i % 11 + i % 3 * 4); };
        Pair ids(DType::i64, {n}, numbers(n, id)), weight(t, {kWords, cols}), y(t, {n, cols});
        Pair dw(t, {kWords, cols}), padded(t, {kWords, cols});
        on_both([&](auto& ctx, Device d) {
          kernels::embedding_forward(ctx, weight.on_device(d), ids.on_device(d), y.on_device(d));
          kernels::embedding_backward(ctx, ids.on_device(d), y.on_device(d), -1, dw.on_device(d));
          kernels::embedding_backward(ctx, ids.on_device(d), y.on_device(d), 4,
                                      padded.on_device(d));
        });
        y.expect_same();
        dw.expect_same();
        padded.expect_same();
      }
}

// What a wait for the device throws after f has run there.
template <class F>
std::string wait_after(F f) {
  on(kCuda, f);
  try {
    synchronize(kCuda);
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing";
}

TEST_F(CudaKernels, AnIndexOutsideItsRangeIsReportedOnce) {
  Pair good(DType::i64, {3}, {0, 1, 2}), bad(DType::i64, {3}, {0, 7, -1});
  Pair weight(DType::f32, {5, 2}), y(DType::f32, {3, 2});
  const auto embed = [&](Pair& ids) {
    return wait_after([&](auto& ctx) {
      kernels::embedding_forward(ctx, weight.on_device(kCuda), ids.on_device(kCuda),
                                 y.on_device(kCuda));
    });
  };
  EXPECT_THAT(embed(bad), HasSubstr("embedding: index must lie in [0, 5), got "));
  EXPECT_EQ(embed(good), "nothing");
  EXPECT_THAT(wait_after([&](auto& ctx) {
                kernels::embedding_backward(ctx, bad.on_device(kCuda), y.on_device(kCuda), -1,
                                            weight.on_device(kCuda));
              }),
              HasSubstr("embedding: index must lie in [0, 5), got 7"));  // -1 is the padding
  Pair rows(DType::f32, {1, 5, 1}), some(DType::f32, {1, 3, 1});
  const auto folded = [&](Pair& p) {
    return ConstView(p.on_device(kCuda).data, {1, 3, 1}, DType::i64);
  };
  EXPECT_THAT(wait_after([&](auto& ctx) {
                kernels::gather(ctx, rows.on_device(kCuda), folded(bad), some.on_device(kCuda));
              }),
              HasSubstr("gather: index must lie in [0, 5), got "));
  EXPECT_THAT(wait_after([&](auto& ctx) {
                kernels::gather_backward(ctx, folded(bad), some.on_device(kCuda),
                                         rows.on_device(kCuda));
              }),
              HasSubstr("gather: index must lie in [0, 5), got "));
}

TEST_F(CudaKernels, LayerNormOfEveryFormAndShape) {
  for (const LayerNormForm form : {LayerNormForm::torch, LayerNormForm::unbiased_std})
    for (const bool deltas : {false, true})
      for (const int64_t rows : {1, 63, 65, 200})
        for (const int64_t n : {1, 2, 31, 270}) {
          if (n == 1 && form == LayerNormForm::unbiased_std) continue;
          SCOPED_TRACE(cat({"form ", int(form), " deltas ", deltas, " rows ", rows, " n ", n}));
          const Shape shape{rows, n};
          Pair x(DType::f32, shape, 1, 3), gamma(DType::f32, {n}, 2), beta(DType::f32, {n}, 3);
          Pair more(DType::f32, shape, 4), shift(DType::f32, shape, 5), dy(DType::f32, shape, 1);
          Pair y(DType::f32, shape), dx(DType::f32, shape), dmore(DType::f32, shape);
          Pair mean(DType::f32, {rows}), spread(DType::f32, {rows});
          Pair dgamma(DType::f32, {n}), dbeta(DType::f32, {n});
          on_both([&](auto& ctx, Device d) {
            kernels::LayerNormArgs args;
            args.form = form, args.eps = 0.01;
            args.x = x.on_device(d), args.gamma = gamma.on_device(d), args.beta = beta.on_device(d);
            if (deltas) args.delta_gamma = more.on_device(d), args.delta_beta = shift.on_device(d);
            args.y = y.on_device(d);
            args.mean = mean.on_device(d), args.spread = spread.on_device(d);
            kernels::layer_norm_forward(ctx, args);
            args.dy = dy.on_device(d), args.dx = dx.on_device(d);
            args.dgamma = dgamma.on_device(d), args.dbeta = dbeta.on_device(d);
            if (deltas) args.ddelta_gamma = dmore.on_device(d);
            kernels::layer_norm_backward(ctx, args);
          });
          for (const Pair* p : {&y, &mean, &spread, &dmore}) p->expect_close(1e-5);
          dbeta.expect_close(2e-5);
          if (n == 1) continue;  // the others are 0 but for rounding
          for (const Pair* p : {&dx, &dgamma}) p->expect_close(2e-5);
        }
}

// More rows than there are blocks and groups of threads, so that these walk; rows that are too wide
// to be staged in shared memory, and to be summed there. The bits of two runs are the same.
TEST_F(CudaKernels, LayerNormBackwardWalksThroughAnyNumberOfRows) {
  struct Rows {
    DType t;
    int64_t rows, n;
  };
  for (const Rows& c : {Rows{DType::bf16, 2200, 8},
                        {DType::f16, 50, 64},
                        {DType::f32, 2150, 3},
                        {DType::f32, 17, 1024},
                        {DType::f32, 268, 1028},
                        {DType::bf16, 3, 13000},
                        {DType::f64, 3, 260},
                        {DType::f32, 2, 29700}}) {
    SCOPED_TRACE(cat({c.t, " rows ", c.rows, " n ", c.n}));
    const Shape shape{c.rows, c.n};
    const DType wide = c.t == DType::f64 ? DType::f64 : DType::f32;
    Pair x(c.t, shape, 0, 3), dy(c.t, shape), gamma(c.t, {c.n}), dx(c.t, shape);
    Pair mean(wide, {c.rows}), spread(wide, {c.rows}, std::vector<double>(size_t(c.rows), 0.5));
    Pair dgamma(c.t, {c.n}), dbeta(c.t, {c.n});
    const auto run = [&](auto& ctx, Device d) {
      kernels::LayerNormArgs args{.x = x.on_device(d), .gamma = gamma.on_device(d)};
      args.mean = mean.on_device(d), args.spread = spread.on_device(d);
      args.dy = dy.on_device(d), args.dx = dx.on_device(d);
      args.dgamma = dgamma.on_device(d), args.dbeta = dbeta.on_device(d);
      kernels::layer_norm_backward(ctx, args);
    };
    on_both(run);
    const double bound = size_of(c.t) == 2 ? 1e-2 : 1e-5;
    for (const Pair* p : {&dx, &dgamma, &dbeta}) p->expect_close(bound);
    const auto results = [&] {
      return std::array{dx.values(kCuda), dgamma.values(kCuda), dbeta.values(kCuda)};
    };
    const auto first = results();
    on(kCuda, [&](auto& ctx) { run(ctx, kCuda); });
    EXPECT_EQ(results(), first);
  }
}

// Logits that are -infinity wherever a thread begins, ignored rows, weights, a class that is none.
TEST_F(CudaKernels, CrossEntropyOfAnyWidth) {
  for (const DType t : {DType::f32, DType::bf16})
    for (const int64_t classes : {2, 33, 1500})
      for (const double smoothing : {0.0, 0.1})
        for (const int64_t wrong : {0, 1}) {
          SCOPED_TRACE(cat({t, " classes ", classes, " smoothing ", smoothing, " wrong ", wrong}));
          constexpr int64_t kRows = 7;
          std::vector<double> logits, target(kRows, 1);
          for (int64_t i = 0; i < kRows * classes; ++i)
            logits.push_back(i % classes < 40 && i % classes != 1 && smoothing == 0
                                 ? -kInfinity
                                 : 3 * std::sin(static_cast<double>(i)));
          target[2] = -100;
          target[3] = static_cast<double>(classes - 1);
          if (smoothing == 0 && classes <= 40) target[3] = 1;
          if (wrong) target[5] = static_cast<double>(classes);
          Pair x(t, {kRows, classes}, logits), ids(DType::i64, {kRows}, target);
          Pair weight(DType::f32, {kRows}, {1, 2, 3, 4, 0, 6, 0.5});
          Pair loss(DType::f32, {}, {0}), total(DType::f32, {}, {0}), dx(t, {kRows, classes});
          on_both([&](auto& ctx, Device d) {
            kernels::cross_entropy(ctx, x.on_device(d), ids.on_device(d), weight.on_device(d), -100,
                                   smoothing, loss.on_device(d), total.on_device(d),
                                   dx.on_device(d));
          });
          EXPECT_EQ(std::isnan(total.values(kCuda)[0]), wrong == 1);
          total.expect_close(0);
          loss.expect_close(1e-5);
          dx.expect_close(t == DType::f32 ? 1e-5 : 1e-2);
        }
}

// Integers, so that every order of addition is exact.
TEST_F(CudaKernels, ProductsOfAnyShape) {
#ifdef PINION_WITH_CUDA
  const kernels::cuda::OwnProductsOnly own;
#endif
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                {65, 33, 17},
                                {64, 64, 16},
                                {3, 130, 40},
                                {70, 5, 1},
                                {4, 4, 0},
                                {8, 8, 8},
                                {136, 72, 104},
                                {24, 264, 40}})  // multiples of 8 go to tensor cores
    for (const int which : {0, 1, 2, 3})
      for (const DType out : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(cat({m, " ", n, " ", k, " transposed ", which, " to ", out}));
        const bool ta = which & 1, tb = which & 2;
        const auto small = [](int64_t i) { return static_cast<double>((i * 40503 >> 5) % 5 - 2); };
        Pair a(DType::bf16, ta ? Shape{2, k, m} : Shape{2, m, k}, numbers(2 * m * k, small));
        Pair b(DType::bf16, tb ? Shape{2, n, k} : Shape{2, k, n}, numbers(2 * k * n, small));
        Pair y(out, {2, m, n}, numbers(2 * m * n, small));
        on_both([&](auto& ctx, Device d) {
          kernels::matmul(ctx, a.on_device(d), ta, b.on_device(d), tb, true, y.on_device(d));
        });
        y.expect_same();
      }
}

TEST_F(CudaKernels, NormsAndWhatIsNotFinite) {
  for (const DType t : kFloating)
    for (const int64_t n : {0, 1, 1000, 70001})
      for (const int64_t offset : {0, 1}) {
        if (n > 1000 && t != DType::bf16) continue;
        SCOPED_TRACE(cat({t, " n ", n, " offset ", offset}));
        Pair x(t, {n}, offset), out(DType::f64, {2}), again(DType::f64, {2});
        on_both([&](auto& ctx, Device d) {
          kernels::squares_and_nonfinite(ctx, x.on_device(d), out.on_device(d));
          kernels::squares_and_nonfinite(ctx, x.on_device(d), again.on_device(d));
        });
        out.expect_close(1e-6);
        EXPECT_EQ(out.values(kCuda), again.values(kCuda));
      }
  Pair odd(DType::f32, {5}, {1, kNan, 2, -kInfinity, kInfinity}), out(DType::f64, {2});
  on_both([&](auto& ctx, Device d) {
    kernels::squares_and_nonfinite(ctx, odd.on_device(d), out.on_device(d));
  });
  EXPECT_EQ(out.values(kCuda)[1], 3);
}

TEST_F(CudaKernels, OptimizersOfAnyLength) {
  for (const DType t : kFloating)
    for (const int64_t n : {1, 5, 1000})
      for (const int64_t offset : {0, 1}) {
        SCOPED_TRACE(cat({t, " n ", n, " offset ", offset}));
        const double bound = t == DType::f64 ? 1e-14 : t == DType::f32 ? 2e-6 : 2e-2;
        Pair w(t, {n}, offset), dw(t, {n}, offset, 2), m(t, {n}, offset), v(t, {n}, offset, 0);
        Pair vmax(t, {n}, offset, 0), b(t, {n}, offset);
        on_both([&](auto& ctx, Device d) {
          kernels::AdamStep adam;
          adam.weight_decay = 0.1, adam.grad_scale = 0.5, adam.step = 3;
          kernels::adam_step(ctx, w.on_device(d), dw.on_device(d), m.on_device(d), v.on_device(d),
                             {}, adam);
          adam.decoupled = true;
          kernels::adam_step(ctx, w.on_device(d), dw.on_device(d), m.on_device(d), v.on_device(d),
                             vmax.on_device(d), adam);
          kernels::SgdStep sgd;
          sgd.lr = 0.01;
          kernels::sgd_step(ctx, w.on_device(d), dw.on_device(d), {}, sgd);
          kernels::fill(ctx, b.on_device(d), kNan);  // the first step does not read it
          sgd.momentum = 0.9, sgd.first = true, sgd.nesterov = true;
          kernels::sgd_step(ctx, w.on_device(d), dw.on_device(d), b.on_device(d), sgd);
          sgd.first = false, sgd.dampening = 0.1, sgd.nesterov = false;
          kernels::sgd_step(ctx, w.on_device(d), dw.on_device(d), b.on_device(d), sgd);
        });
        for (const Pair* p : {&w, &m, &v, &vmax, &b}) p->expect_close(bound);
      }
}

// The places of weights and copies may be off their boundaries, together or apart.
TEST_F(CudaKernels, OptimizersWriteLowPrecisionCopies) {
  for (const DType t : {DType::bf16, DType::f16})
    for (const int64_t n : {1, 5, 1000})
      for (const auto& [offset, of_low] : {std::pair{0, 0}, {4, 4}, {1, 1}, {0, 1}, {4, 2}}) {
        SCOPED_TRACE(cat({t, " n ", n, " offsets ", offset, " ", of_low}));
        Pair w(DType::f32, {n}, offset), dw(DType::f32, {n}, offset, 2);
        Pair m(DType::f32, {n}, offset, 0), v(DType::f32, {n}, offset, 0);
        Pair after_adam(t, {n}, of_low), after_sgd(t, {n}, of_low), want(t, {n}, of_low);
        on(kCuda, [&](auto& ctx) {
          kernels::adam_step(ctx, w.on_device(kCuda), dw.on_device(kCuda), m.on_device(kCuda),
                             v.on_device(kCuda), {}, {.low = after_adam.on_device(kCuda)});
          kernels::cast(ctx, w.on_device(kCuda), want.on_device(kCuda));
        });
        EXPECT_EQ(after_adam.values(kCuda), want.values(kCuda));
        on(kCuda, [&](auto& ctx) {
          kernels::sgd_step(ctx, w.on_device(kCuda), dw.on_device(kCuda), {},
                            {.lr = 0.1, .low = after_sgd.on_device(kCuda)});
          kernels::cast(ctx, w.on_device(kCuda), want.on_device(kCuda));
        });
        EXPECT_EQ(after_sgd.values(kCuda), want.values(kCuda));
      }
}

}  // namespace
}  // namespace pinion::testing
