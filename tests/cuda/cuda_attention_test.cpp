// SPDX-License-Identifier: Apache-2.0
// Attention on a CUDA device, a GPU or the simulator, against the CPU's and against f64: sizes that
// tensor cores take and sizes that they do not, around the edges of their tiles.
#include "pinion/tests/nn/attention_testing.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

const Problem kProblems[] = {
    // on tensor cores, where the type has 16 bits
    {1, 1, 1, 1, 32},
    {2, 16, 16, 2, 32},
    {2, 60, 60, 1, 64, true, 0.1, 0, 11},
    {1, 98, 98, 1, 64, false, 0.1},
    {1, 128, 128, 1, 32, true, 0.3},
    {1, 17, 113, 2, 64},
    {1, 100, 20, 1, 32, true},
    {1, 20, 65, 1, 64, true, 0.2},
    // rows that see no key
    {1, 33, 49, 1, 64, true, 0, 21, 2},
    {1, 18, 35, 1, 32, false, 0.4, 35, 0},
    // on ordinary cores
    {2, 5, 3, 3, 7},
    {1, 129, 40, 1, 64, true, 0.2},
    {1, 20, 130, 1, 32},
    {1, 40, 70, 1, 33, true, 0.1, 37, 2},
    {1, 9, 13, 2, 150, false, 0.4, 13, 0},
};

Tensors on_device(const Tensors& x, Device device, DType dtype) {
  Tensors moved;
  for (size_t i = 0; i < x.size(); ++i)
    moved.push_back(converted(x[i], dtype).to(device).requires_grad(true));
  return moved;
}

TEST_F(CudaKernels, AttentionEqualsTheCpus) {
  const struct {
    DType dtype;
    double y_bound, dx_bound;
  } types[] = {{DType::f32, 2e-6, 5e-6},
               {DType::f64, 1e-14, 1e-14},
               {DType::bf16, 1e-2, 2e-2},
               {DType::f16, 2e-3, 4e-3}};
  for (const Problem& p : kProblems)
    for (const auto& [dtype, y_bound, dx_bound] : types) {
      // The larger ones of those are about tensor cores alone.
      const bool wide = dtype == DType::f32 || dtype == DType::f64;
      if (wide && p.queries * p.keys > 2500 && p.queries <= 128 && p.keys <= 128) continue;
      SCOPED_TRACE(::testing::PrintToString(p) + " in " + name_of(dtype));
      const Tensors x = inputs_of(p, dtype);
      const Tensors got = results_of(p, on_device(x, kCuda, dtype));
      const Tensors cpu = results_of(p, x), exact = results_of(p, on_device(x, kCpu, DType::f64));
      for (size_t i = 0; i < got.size(); ++i) {
        const double bound = i == 0 ? y_bound : dx_bound;
        EXPECT_LE(relative_error(got[i], cpu[i]), bound) << "tensor " << i;
        EXPECT_LE(relative_error(got[i], exact[i]), bound) << "tensor " << i << " against f64";
      }
    }
}

TEST_F(CudaKernels, AttentionOfNothing) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Shape& s : {Shape{0, 3, 2, 32}, {2, 0, 2, 32}, {2, 3, 0, 32}}) {
      const Tensor q = Tensor::zeros(s, dtype, kCuda).requires_grad(true);
      const Tensor k = Tensor::full({s[0], 5, s[2], 32}, 1, dtype, kCuda).requires_grad(true);
      const Tensor y = nn::attention(q, k, k);
      EXPECT_EQ(y.shape(), s);
      backward(y, Tensor::zeros(s, dtype, kCuda));
      EXPECT_EQ(reals(k.grad()), std::vector<double>(static_cast<size_t>(k.numel()), 0));
    }
}

TEST_F(CudaKernels, AttentionRepeatsItsBits) {
  const Problem sizes[] = {{1, 20, 35, 2, 64, false, 0.1}, {1, 40, 20, 1, 40, true}};
  for (const Problem& p : sizes)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensors x = on_device(inputs_of(p), kCuda, dtype);
      const Tensors first = results_of(p, x);
      Tensors kept;
      for (size_t i = 0; i < first.size(); ++i) kept.push_back(first[i].to(kCpu));
      const Tensors again = results_of(p, x);
      for (size_t i = 0; i < kept.size(); ++i)
        EXPECT_EQ(bits(again[i].to(kCpu)), bits(kept[i])) << "tensor " << i;
    }
}

}  // namespace
}  // namespace pinion::testing
