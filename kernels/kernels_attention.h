// SPDX-License-Identifier: Apache-2.0
// The kernels of attention, declared as in kernels.h.
#pragma once

#include "pinion/kernels/kernels.h"

namespace pinion::kernels {

// Element (b, t, h, c) of [B,T,H,d] lies at data[(b T + t) row + h d + c], so that q, k and v may
// be parts of one block [B,T,3,H,d], the result of a fused projection. Of the view, data and dtype
// count.
template <class Void>
struct BasicHeads {
  BasicView<Void> x;
  int64_t row = 0;
};

// Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) of H heads of B sequences:
//   s[i,j] = scale q[i] . k[j], or kHidden where query i may not see key j
//   p = softmax of s over j;  y[i] = sum over j of drop(p)[i,j] v[j]
// Softmax and sums are in the accumulator's type. A query that sees no key gets the mean of all
// values, and gives its scores no gradient.
struct AttentionArgs {
  static constexpr double kHidden = -1e9;  // e^kHidden is 0 beside any score of a key that is seen
  int64_t batch = 0, heads = 0, queries = 0, keys = 0, width = 0;  // B, H, Tq, Tk, d
  BasicHeads<const void> q, k, v;
  ConstView hidden;     // bool [B,Tk], true for keys that no query sees; or empty
  bool causal = false;  // query i sees keys up to i
  double scale = 1;
  double dropout = 0;  // p in [0, 1) and the key: what kernels::dropout does to p [B,H,Tq,Tk]
  PhiloxKey key;
  BasicHeads<void> y;         // forward
  View lse;                   // [B,H,Tq] f32 (f64 for f64): log of the sum of e^s, or kHidden
  BasicHeads<const void> dy;  // backward, which reads q, k, v and lse
  BasicHeads<void> dq, dk, dv;
};

}  // namespace pinion::kernels

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

PINION_KERNEL(attention_forward, AttentionArgs args)
PINION_KERNEL(attention_backward, AttentionArgs args)  // the probabilities are made again

}  // namespace pinion::kernels

#undef PINION_KERNEL
