// SPDX-License-Identifier: Apache-2.0
// How the kernels of the library use memory: those that claim to be coalesced touch no more sectors
// of device memory than they need, and take no more passes over the banks of shared memory. Built
// where kernels report their accesses.
#include <cstdio>

#include "pinion/kernels/cuda/backend.h"
#include "pinion/kernels/cuda/matmul.cuh"
#include "pinion/nn/amp.h"
#include "pinion/nn/fused_mlp.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/nn/fused_mlp_testing.h"
#include "pinion/tests/support/device_pair.h"

namespace cudasim::testing {
namespace {

using pinion::BFloat16;
using pinion::DType;
using pinion::testing::kCuda;
using pinion::testing::Pair;

// What f does on the device, and how much of it is of the file. Prints the lines that take more
// than they need.
template <class F>
std::vector<LineTraffic> traffic_of(F f) {
  const TrafficMeter meter;
  f(pinion::cuda_backend::context(0));
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<LineTraffic> lines = meter.lines();
  for (const LineTraffic& t : lines)
    if (t.units > t.least)
      std::printf("%-24s %s %s of %zu bytes: %llu requests, %.2f %s each, least %.2f\n",
                  t.line.c_str(), t.shared ? "shared" : "device", t.writes ? "stores" : "loads",
                  t.bytes, static_cast<unsigned long long>(t.requests),
                  static_cast<double>(t.units) / static_cast<double>(t.requests),
                  t.shared ? "passes" : "sectors",
                  static_cast<double>(t.least) / static_cast<double>(t.requests));
  return lines;
}

// No access takes more than so many times what it needs.
void expect_lean(const std::vector<LineTraffic>& lines, double device = 1, double shared = 1) {
  EXPECT_FALSE(lines.empty());
  for (const LineTraffic& t : lines)
    EXPECT_LE(static_cast<double>(t.units),
              (t.shared ? shared : device) * static_cast<double>(t.least))
        << t.line << (t.shared ? ": shared " : ": device ") << (t.writes ? "stores" : "loads");
}

constexpr DType kTypes[] = {DType::f32, DType::bf16};

TEST(Traffic, ElementwiseKernelsAndOptimizers) {
  for (const DType t : kTypes)
    for (const int64_t n : {4096, 1003}) {
      SCOPED_TRACE(n);
      Pair a(t, {n}), b(t, {n}), y(t, {n}), v(t, {n}, 0, 0), out(DType::f64, {2});
      expect_lean(traffic_of([&](auto& ctx) {
        using namespace pinion::kernels;  // NOLINT
        add(ctx, a.on_device(kCuda), b.on_device(kCuda), y.on_device(kCuda));
        AdamStep adam;
        adam.step = 1;
        adam_step(ctx, a.on_device(kCuda), b.on_device(kCuda), y.on_device(kCuda),
                  v.on_device(kCuda), {}, adam);
        sgd_step(ctx, a.on_device(kCuda), b.on_device(kCuda), y.on_device(kCuda), SgdStep{});
      }));
      // Its last block reads the two sums of every other, a pair of doubles each.
      expect_lean(traffic_of([&](auto& ctx) {
                    pinion::kernels::squares_and_nonfinite(ctx, a.on_device(kCuda),
                                                           out.on_device(kCuda));
                  }),
                  2);
    }
}

// The bytes of the widest access to device memory of a file.
size_t widest_access(const std::vector<LineTraffic>& lines, const char* file) {
  size_t widest = 0;
  for (const LineTraffic& t : lines)
    if (!t.shared && t.line.find(file) != std::string::npos) widest = std::max(widest, t.bytes);
  return widest;
}

// A warp, a block, and a block whose last turn is not full for each row, in packs of 16 bytes; rows
// of an odd length element by element. In both, every request takes the sectors it must.
TEST(Traffic, RowKernels) {
  for (const DType t : kTypes)
    for (const int64_t n : {128, 512, 2048, 2576, 301}) {
      SCOPED_TRACE(n);
      constexpr int64_t kRows = 6;
      Pair x(t, {kRows, n}), y(t, {kRows, n}), dx(t, {kRows, n}), w(t, {n}), b(t, {n});
      Pair dw(t, {n}), db(t, {n}), mean(DType::f32, {kRows}), rstd(DType::f32, {kRows});
      Pair sum(t, {kRows, n}), branch(t, {kRows, n}), loss(DType::f32, {}), total(DType::f32, {});
      const pinion::Tensor ids = pinion::Tensor::of<int64_t>({0, 1, 2, 3, 4, 5}, {6}).to(kCuda);
      const auto at = [](Pair& p) { return p.on_device(kCuda); };
      const std::vector<LineTraffic> lines = traffic_of([&](auto& ctx) {
        using namespace pinion::kernels;  // NOLINT
        softmax_forward(ctx, at(x), at(y));
        softmax_backward(ctx, at(y), at(x), at(dx));
        LayerNormArgs args{.eps = 1e-5, .x = at(x), .gamma = at(w), .beta = at(b)};
        args.y = at(y), args.mean = at(mean), args.spread = at(rstd);
        layer_norm_forward(ctx, args);
        args.dy = at(y), args.dx = at(dx), args.dgamma = at(dw), args.dbeta = at(db);
        layer_norm_backward(ctx, args);
        args.x = at(sum), args.residual.x = at(x), args.residual.branch = at(branch);
        args.residual.sum = at(sum), args.residual.dropout = 0.1;
        layer_norm_forward(ctx, args);
        cross_entropy(ctx, at(x), ids, {}, -100, 0, at(loss), at(total), at(dx));
      });
      // Rows of an odd length begin anywhere in a sector. Where a block's last turn is not full,
      // the count takes accesses of shared memory by several lines for one request.
      expect_lean(lines, n % 8 == 0 ? 1 : 1.5, n == 2576 ? 1.03 : 1);
      EXPECT_EQ(widest_access(lines, "map.cuh"), n % 8 == 0 ? 16 : pinion::size_of(t));
    }
}

// The gradients of a norm move x, dy and dx once; and what does not grow with the rows' width or
// number: the moments, by each warp of a row, gamma and the sums by block.
TEST(Traffic, LayerNormBackwardIsThreePasses) {
  struct Rows {
    DType t;
    int64_t rows, n, together, warps;  // rows of a block at a time, warps of a row
  };
  for (const Rows& c : {Rows{DType::f32, 64, 512, 8, 1},
                        {DType::bf16, 64, 512, 8, 1},
                        {DType::f32, 6, 2048, 1, 8},
                        {DType::bf16, 6, 4096, 1, 8}}) {
    SCOPED_TRACE(c.n);
    Pair x(c.t, {c.rows, c.n}), dy(c.t, {c.rows, c.n}), dx(c.t, {c.rows, c.n}), w(c.t, {c.n});
    Pair dw(c.t, {c.n}), db(c.t, {c.n}), mean(DType::f32, {c.rows}), rstd(DType::f32, {c.rows});
    const auto at = [](Pair& p) { return p.on_device(kCuda); };
    const std::vector<LineTraffic> lines = traffic_of([&](auto& ctx) {
      pinion::kernels::LayerNormArgs args{.x = at(x), .gamma = at(w)};
      args.mean = at(mean), args.spread = at(rstd), args.dy = at(dy), args.dx = at(dx);
      args.dgamma = at(dw), args.dbeta = at(db);
      pinion::kernels::layer_norm_backward(ctx, args);
    });
    expect_lean(lines);
    int64_t loaded = 0, stored = 0;
    for (const LineTraffic& t : lines)
      if (!t.shared) (t.writes ? stored : loaded) += static_cast<int64_t>(t.units) * 32;
    const int64_t row = c.n * pinion::size_of(c.t), blocks = c.rows / c.together;
    const int64_t slabs = blocks * 2 * c.n * 4, moments = c.rows * c.warps * 2 * 32;
    EXPECT_EQ(loaded, c.rows * 2 * row + moments + blocks * row + slabs);
    EXPECT_EQ(stored, c.rows * row + slabs + 2 * row);
  }
}

// Both kernels, also for shapes that route_of() gives to one of them.
TEST(Traffic, ProductsOnTensorCores) {
  using namespace pinion::kernels::cuda;  // NOLINT
  constexpr int64_t kM = 128, kN = 256, kK = 128;
  for (const bool groups : {false, true})
    for (const int which : {0, 1, 2, 3})
      for (const DType out : {DType::bf16, DType::f32}) {
        SCOPED_TRACE(::testing::Message() << "warp groups " << groups << " transposed " << which);
        const bool down_a = which & 1, down_b = which & 2;
        Pair a(DType::bf16, {kM * kK}), b(DType::bf16, {kK * kN}), y(out, {kM * kN});
        Pair bias(out, {kN});
        const Operand<BFloat16> left{a.on_device(kCuda).as<BFloat16>(), down_a ? 1 : kK,
                                     down_a ? kM : 1, 0};
        const Operand<BFloat16> right{b.on_device(kCuda).as<BFloat16>(), down_b ? 1 : kN,
                                      down_b ? kK : 1, 0};
        const auto run = [&]<class Out>(Out*) {
          const Result<Out> result{y.on_device(kCuda).as<Out>(), true,
                                   bias.on_device(kCuda).as<Out>(), pinion::Activation::gelu,
                                   nullptr};
          expect_lean(traffic_of([&](auto& ctx) {
            if (groups)
              multiply_by_warp_groups(ctx, {1, kM, kN, kK}, left, right, result);
            else
              multiply_by_warps(ctx, {1, kM, kN, kK}, left, right, result);
          }));
        };
        out == DType::bf16 ? run(static_cast<BFloat16*>(nullptr))
                           : run(static_cast<float*>(nullptr));
      }
}

// Lanes that hold fragments take every second column: half of the sectors of dx and of the weight
// gradients, which are stored once, and in f32, where a column is a bank, half of the banks.
TEST(Traffic, FusedMlp) {
  using namespace pinion;  // NOLINT
  for (const nn::Precision precision : {nn::Precision::bf16, nn::Precision::no})
    for (const bool needs_dx : {false, true}) {
      const nn::Autocast guard(precision);
      nn::FusedMlp model({64, 128, 48, 32}, Activation::relu);
      for (nn::Linear& layer : model.layers)
        for (Tensor* p : {&layer.weight, &layer.bias})
          *p = p->detach().to(kCuda).clone().requires_grad(true);
      const Tensor noise = pinion::testing::noise({128, 64}, 3).to(kCuda);
      const Tensor x = nn::cast(noise, precision == nn::Precision::bf16 ? DType::bf16 : DType::f32);
      const Tensor target = pinion::testing::noise({128, 32}, 5).to(kCuda);
      const Tensor leaf = x.detach().requires_grad(needs_dx);
      expect_lean(traffic_of([&](auto&) { backward(model.mse_loss(leaf, target)); }), 2,
                  precision == nn::Precision::no ? 2 : 1.1);
    }
}

}  // namespace
}  // namespace cudasim::testing
