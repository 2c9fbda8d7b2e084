// SPDX-License-Identifier: Apache-2.0
// The kernels of layer normalisation in all its forms, declared as in kernels.h.
#pragma once

#include "pinion/kernels/kernels.h"

namespace pinion {

// What differences from the mean are divided by: sqrt(variance + eps), the variance a mean over n
// elements, as torch.nn.LayerNorm has it; or std + eps, the standard deviation over n - 1, which
// must be at least 1.
enum class LayerNormForm : uint8_t { torch, unbiased_std };

namespace kernels {

// Per row of x [..,n]: xhat = (x - mean) / (what the form divides by), y = xhat gamma + beta, where
// gamma and beta are [n] and gain a row of their own where delta_gamma and delta_beta are given.
struct LayerNormArgs {
  LayerNormForm form = LayerNormForm::torch;
  double eps = 0;
  ConstView x, gamma, beta;
  ConstView delta_gamma, delta_beta;  // x's shape; or both empty
  View y;                             // forward
  View mean, spread;                  // [rows] f32 (f64 for f64), for the backward pass
  ConstView dy;                       // backward; each result may be empty
  View dx;
  View dgamma, dbeta;  // sums over rows of dy xhat and of dy
  View ddelta_gamma;   // dy xhat; that of delta_beta is dy itself
};

}  // namespace kernels
}  // namespace pinion

#define PINION_KERNEL(name, ...)              \
  namespace rung_scalar {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx2 {                       \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx512 {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace cuda {                            \
  void name(const CudaContext&, __VA_ARGS__); \
  }                                           \
  inline constexpr Kernel<void(__VA_ARGS__)> name{PINION_RUNGS(name) PINION_CUDA_ENTRY(name)};

namespace pinion::kernels {

PINION_KERNEL(norm_forward, LayerNormArgs args)
PINION_KERNEL(norm_backward,
              LayerNormArgs args)  // dx = (g - mean(g) - xhat c) / divisor, g = dy gamma

}  // namespace pinion::kernels

#undef PINION_KERNEL
