// SPDX-License-Identifier: Apache-2.0
// What one line of kernels.h declares: the CPU definitions, one per rung of the ISA ladder, the
// CUDA definition, and a callable of that name which picks by the type of the context and, on the
// CPU, by its rung. Also the structs that kernels with many arguments take.
#pragma once

#include "pinion/kernels/context.h"
#include "pinion/kernels/philox.h"
#include "pinion/kernels/types.h"

namespace pinion {

enum class Activation : uint8_t { none, relu, gelu, gelu_tanh };  // gelu is the erf form

namespace kernels {

// One step of SGD as torch.optim.SGD defines it: g = dw + weight_decay w; with momentum
// b = first ? g : momentum b + (1 - dampening) g; g = nesterov ? g + momentum b : b; w -= lr g.
struct SgdStep {
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false;
  bool first = false;     // the first step of this range: b = g
  double grad_scale = 1;  // multiplies dw first: unscaling and clipping without a pass of their own
};

// One step of Adam (Kingma & Ba 2015, algorithm 1) or AdamW (Loshchilov & Hutter 2019), as
// torch.optim computes it: denominators are sqrt(v) / sqrt(1 - beta2^t) + eps.
struct AdamStep {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = false;  // AdamW: w *= 1 - lr weight_decay, instead of g += weight_decay w
  int64_t step = 1;        // t, counted from 1
  double grad_scale = 1;
};

enum class MlpLoss : uint8_t { mse, cross_entropy };  // both are means over what they sum

// An MLP of `layers` linear layers; hidden widths and the output width are at most 128 each.
// Weights are [out,in] as nn::Linear has them. All pointers are to dense blocks; `dtype` (f32 or
// bf16) is that of x, the weights and the activations between layers; sums are f32.
struct FusedMlpArgs {
  static constexpr int kMaxLayers = 16;
  static constexpr int64_t kMaxWidth = 128;
  int layers = 0;
  int64_t rows = 0;                    // N
  int64_t width[kMaxLayers + 1] = {};  // width[0] features in, width[layers] out
  ConstView x;                         // [N, width[0]]
  ConstView weight[kMaxLayers];        // [width[i+1], width[i]]
  ConstView bias[kMaxLayers];          // [width[i+1]] f32, or empty
  Activation activation = Activation::relu;
  MlpLoss loss = MlpLoss::mse;
  ConstView target;          // mse: [N, out] f32; cross_entropy: [N] i64
  View y;                    // [N, out] f32; forward only, or empty
  View loss_value;           // [] f32
  View dweight[kMaxLayers];  // f32 [width[i+1], width[i]]
  View dbias[kMaxLayers];    // f32 [width[i+1]], or empty
  View dx;                   // [N, width[0]] f32, or empty
};

template <class Signature>
struct Kernel;

template <class... Args>
struct Kernel<void(Args...)> {
  void (*cpu[3])(const CpuContext&, Args...);  // scalar, avx2, avx512
#ifdef PINION_WITH_CUDA
  void (*cuda)(const CudaContext&, Args...);
  void operator()(const CudaContext& ctx, Args... args) const { cuda(ctx, args...); }
#endif
  void operator()(const CpuContext& ctx, const Args&... args) const {
    cpu[ctx.isa < Isa::avx512 ? static_cast<int>(ctx.isa) : 2](ctx, args...);
  }
};

}  // namespace kernels
}  // namespace pinion

#if defined(__x86_64__)
#define PINION_RUNGS(name) \
  { rung_scalar::name, rung_avx2::name, rung_avx512::name }
#else
#define PINION_RUNGS(name) \
  { rung_scalar::name, rung_scalar::name, rung_scalar::name }
#endif
#ifdef PINION_WITH_CUDA
#define PINION_CUDA_ENTRY(name) , cuda::name
#else
#define PINION_CUDA_ENTRY(name)
#endif
