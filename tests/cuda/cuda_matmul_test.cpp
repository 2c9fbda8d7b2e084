// SPDX-License-Identifier: Apache-2.0
// Products of 16-bit matrices of at least one whole tile, which the device's best kernel takes:
// warp groups on sm_90, warps elsewhere. Against the CPU's.
#include <array>

#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

// Small integers, so that every order of addition is exact.
std::vector<double> integers(int64_t n, int64_t salt) {
  std::vector<double> v;
  for (int64_t i = 0; i < n; ++i)
    v.push_back(static_cast<double>(((i + salt) * 40503 >> 5) % 5 - 2));
  return v;
}

TEST_F(CudaKernels, ProductsOfWholeTiles) {
  // One tile and one step; tails on every side; more steps than the ring has stages.
  for (const auto& [batch, m, n, k] :
       {std::array<int64_t, 4>{1, 128, 128, 64}, {2, 136, 200, 72}, {1, 264, 136, 328}})
    for (const int which : {0, 1, 2, 3})
      for (const DType t : {DType::bf16, DType::f16})
        for (const DType out : {DType::f32, t}) {
          if (t == DType::f16 && batch == 2) continue;
          SCOPED_TRACE(cat({t, " ", m, " ", n, " ", k, " transposed ", which, " to ", out}));
          const bool ta = which & 1, tb = which & 2;
          Pair a(t, ta ? Shape{batch, k, m} : Shape{batch, m, k}, integers(batch * m * k, 0));
          Pair b(t, tb ? Shape{batch, n, k} : Shape{batch, k, n}, integers(batch * k * n, 7));
          Pair y(out, {batch, m, n}, integers(batch * m * n, 3));
          on_both([&](auto& ctx, Device d) {
            kernels::matmul(ctx, a.on_device(d), ta, b.on_device(d), tb, true, y.on_device(d));
          });
          y.expect_same();
        }
}

TEST_F(CudaKernels, LinearLayersOfWholeTiles) {
  constexpr int64_t kRows = 130, kIn = 136, kOut = 131;  // rows of y are off any boundary
  for (const DType t : {DType::bf16, DType::f16})
    for (const auto act : {Activation::none, Activation::gelu}) {
      Pair x(t, {kRows, kIn}), w(t, {kOut, kIn}, 0, 0.1), b(t, {kOut}, 3);
      const bool activates = act != Activation::none;
      Pair y(t, {kRows, kOut}), pre(t, {kRows, kOut});
      on_both([&](auto& ctx, Device d) {
        kernels::linear_forward(ctx, x.on_device(d), w.on_device(d), b.on_device(d), act,
                                y.on_device(d), activates ? pre.on_device(d) : View{});
      });
      y.expect_close(t == DType::bf16 ? 1e-2 : 1e-3);
      pre.expect_close(t == DType::bf16 ? 1e-2 : 1e-3);
    }
}

}  // namespace
}  // namespace pinion::testing
