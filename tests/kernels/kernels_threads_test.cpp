// SPDX-License-Identifier: Apache-2.0
// The promise of kernels/cpu/parallel.h: a kernel's bits do not depend on the number of threads, on
// any rung, for problems that are cut into many chunks.
#include "kernels_testing.h"

namespace pinion::kernels {
namespace {

using Outputs = std::vector<Block>;
using Run = std::function<Outputs(const CpuContext&)>;

// Random operands are made once; the kernels only read them.
struct Operands {
  int64_t rows = 700, cols = 301;
  Block x = Block::random(DType::f32, Shape{rows, cols}, 61);
  Block z = Block::random(DType::f32, Shape{rows, cols}, 62);
  Block gamma = Block::random(DType::f32, Shape{cols}, 63);
  Block target{DType::i64, Shape{rows}};
  Operands() {
    for (int64_t r = 0; r < rows; ++r) target.set(r, static_cast<double>(r * 37 % cols));
  }
  Block like() const { return Block(DType::f32, Shape{rows, cols}); }
  ConstView folded(const Block& b, const Shape& s) const { return {b.view().data, s, DType::f32}; }
};

std::vector<std::pair<const char*, Run>> cases(const Operands& in) {
  const auto one = [&in](auto kernel) {
    return [&in, kernel](const CpuContext& c) {
      Outputs out{in.like()};
      kernel(c, out[0].view());
      return out;
    };
  };
  return {
      {"gelu", one([&in](auto& c, View y) { gelu_forward(c, in.x.view(), false, y); })},
      {"add_bias", one([&in](auto& c, View y) { add_bias(c, in.x.view(), in.gamma.view(), y); })},
      {"softmax", one([&in](auto& c, View y) { softmax_forward(c, in.x.view(), y); })},
      {"softmax_backward",
       one([&in](auto& c, View y) { softmax_backward(c, in.x.view(), in.z.view(), y); })},
      {"log_softmax", one([&in](auto& c, View y) { log_softmax_forward(c, in.x.view(), y); })},
      {"dropout", one([&in](auto& c, View y) {
         dropout(c, in.x.view(), 0.4, {1, 2, 3}, y);
       })},
      {"uniform", one([](auto& c, View y) {
         uniform(c, y, {1, 2, 3}, -1, 1);
       })},
      {"normal", one([](auto& c, View y) {
         normal(c, y, {1, 2, 3}, 0, 1);
       })},
      {"embedding_backward", one([&in](auto& c, View y) {
         embedding_backward(c, in.target.view(), in.z.view(), -1, y);
       })},
      {"sum_rows",
       [&in](const CpuContext& c) {
         Outputs out{Block(DType::f32, Shape{in.cols})};
         sum_rows(c, in.x.view(), out[0].view());
         return out;
       }},
      {"sums of everything and of a middle axis",
       [&in](const CpuContext& c) {
         Outputs out{Block(DType::f32, Shape{1, 1}), Block(DType::f32, Shape{7, 43})};
         sum_axis(c, in.folded(in.x, Shape{1, in.x.numel(), 1}), 1, out[0].view());
         sum_axis(c, in.folded(in.x, Shape{7, 700, 43}), 1, out[1].view());
         return out;
       }},
      {"max_axis",
       [&in](const CpuContext& c) {
         Outputs out{Block(DType::f32, Shape{in.rows, 1}), Block(DType::i64, Shape{in.rows, 1})};
         max_axis(c, in.folded(in.x, Shape{in.rows, in.cols, 1}), out[0].view(), out[1].view());
         return out;
       }},
      {"layer_norm_backward",
       [&in](const CpuContext& c) {
         Outputs out{in.like(), Block(DType::f32, Shape{in.cols}),
                     Block(DType::f32, Shape{in.cols})};
         Block y = in.like(), mean(DType::f32, Shape{in.rows}), rstd(DType::f32, Shape{in.rows});
         LayerNormArgs args{.eps = 1e-5, .x = in.x.view(), .gamma = in.gamma.view()};
         args.beta = in.gamma.view(), args.y = y.view();
         args.mean = mean.view(), args.spread = rstd.view();
         layer_norm_forward(c, args);
         args.dy = in.z.view(), args.dx = out[0].view();
         args.dgamma = out[1].view(), args.dbeta = out[2].view();
         layer_norm_backward(c, args);
         out.push_back(y);
         return out;
       }},
      {"cross_entropy",
       [&in](const CpuContext& c) {
         Outputs out{in.like(), Block(DType::f32, Shape{}), Block(DType::f32, Shape{})};
         cross_entropy(c, in.x.view(), in.target.view(), ConstView(), -100, 0.1, out[1].view(),
                       out[2].view(), out[0].view());
         return out;
       }},
      {"squares_and_nonfinite",
       [&in](const CpuContext& c) {
         Outputs out{Block(DType::f64, Shape{2})};
         squares_and_nonfinite(c, in.x.view(), out[0].view());
         return out;
       }},
      {"adam_step",
       [&in](const CpuContext& c) {
         Outputs out{in.x, in.like(), in.like()};
         adam_step(c, out[0].view(), in.z.view(), out[1].view(), out[2].view(), View(), AdamStep{});
         return out;
       }},
  };
}

TEST(KernelThreads, BitsDoNotDependOnTheNumberOfThreads) {
  const Operands in;
  ThreadPool pools[] = {ThreadPool(1), ThreadPool(2), ThreadPool(4), ThreadPool(8)};
  for (const auto& [name, run] : cases(in))
    for (Isa isa : rungs()) {
      const Outputs want = run(CpuContext{&pools[0], isa});
      for (ThreadPool& pool : pools) {
        const Outputs got = run(CpuContext{&pool, isa});
        for (size_t i = 0; i < want.size(); ++i)
          EXPECT_TRUE(got[i].same_bits(want[i]))
              << name << ", output " << i << ", " << pool.threads() << " threads, rung "
              << static_cast<int>(isa);
      }
    }
}

}  // namespace
}  // namespace pinion::kernels
