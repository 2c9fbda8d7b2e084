// SPDX-License-Identifier: Apache-2.0
// Every kernel of Pinion, one line each: this list is the contract between the library and a
// device. A kernel reads ConstViews, writes Views, never allocates a result, never looks at
// autograd. Unless a line says otherwise: all floating views of a call have one dtype (f32, f64,
// bf16, f16), 16-bit storage computes in f32, shapes were checked by the caller, and `y` may be the
// same block as `x`, but not overlap it otherwise.
//
// A kernel missing on one device is a link error.
#pragma once

#include "pinion/kernels/dispatch.h"

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

// clang-format off

// --- fill, copy, cast -------------------------------------------------------------------------
PINION_KERNEL(fill, View x, double value)              // x = value; any dtype
PINION_KERNEL(cast, ConstView x, View y)               // y = x, any pair of dtypes; round to even
PINION_KERNEL(uniform, View x, PhiloxKey key, double lo, double hi)  // lo + (hi - lo) u; f32, f64
PINION_KERNEL(normal, View x, PhiloxKey key, double mean, double std)  // Box-Muller; f32, f64

// --- element-wise (kernels/formulas.h) ----------------------------------------------------------
PINION_KERNEL(add, ConstView a, ConstView b, View y)       // y = a + b
PINION_KERNEL(subtract, ConstView a, ConstView b, View y)  // y = a - b
PINION_KERNEL(multiply, ConstView a, ConstView b, View y)  // y = a b
PINION_KERNEL(divide, ConstView a, ConstView b, View y)    // y = a / b
PINION_KERNEL(divide_backward_b, ConstView a, ConstView b, ConstView dy, View db)  // -dy a / b^2
PINION_KERNEL(affine, ConstView x, double scale, double shift, View y)  // y = scale x + shift
PINION_KERNEL(scale_by, ConstView x, ConstView s, View y)  // y = x s[]; s holds one element
PINION_KERNEL(relu_forward, ConstView x, View y)           // y = max(x, 0); NaN stays NaN
PINION_KERNEL(relu_backward, ConstView y, ConstView dy, View dx)             // dx = y > 0 ? dy : 0
PINION_KERNEL(gelu_forward, ConstView x, bool tanh_form, View y)             // erf form unless told
PINION_KERNEL(gelu_backward, ConstView x, bool tanh_form, ConstView dy, View dx)
PINION_KERNEL(sigmoid_forward, ConstView x, View y)                          // y = 1 / (1 + e^-x)
PINION_KERNEL(sigmoid_backward, ConstView y, ConstView dy, View dx)          // dx = dy y (1 - y)
PINION_KERNEL(tanh_forward, ConstView x, View y)
PINION_KERNEL(tanh_backward, ConstView y, ConstView dy, View dx)             // dx = dy (1 - y^2)
PINION_KERNEL(exp_forward, ConstView x, View y)
PINION_KERNEL(log_forward, ConstView x, View y)                              // natural logarithm
// mask (bool) ? value : x
PINION_KERNEL(masked_fill, ConstView x, ConstView mask, double value, View y)
PINION_KERNEL(clamp, ConstView x, double lo, double hi, View y)              // NaN stays NaN
// y[i] = keep(i) ? x[i] / (1 - p) : 0, keep(i) = word i of the stream < (1 - p) 2^32. Backward: the
// same of dy.
PINION_KERNEL(dropout, ConstView x, double p, PhiloxKey key, View y)

// --- rows and axes: a view folded to [outer, n, inner] ------------------------------------------
PINION_KERNEL(add_bias, ConstView x, ConstView b, View y)    // y[r,c] = x[r,c] + b[c]
PINION_KERNEL(sum_rows, ConstView x, View y)                 // y[c] = sum over r of x[r,c]
// y[o,i] = scale sum over n of x[o,n,i]
PINION_KERNEL(sum_axis, ConstView x, double scale, View y)
PINION_KERNEL(expand_axis, ConstView x, double scale, View y)  // y[o,n,i] = scale x[o,i]
// y[o,i] = max over n of x[o,n,i], index (i64) = the first n that reaches it; NaN wins. n >= 1.
PINION_KERNEL(max_axis, ConstView x, View y, View index)
// [a,m,b,n,c] -> [a,n,b,m,c]; any dtype
PINION_KERNEL(swap_axes, ConstView x, View y)
// y[o, at + k, i] = x[o,k,i]; any dtype
PINION_KERNEL(copy_into, ConstView x, int64_t at, View y)
// y[o,k,i] = x[o, at + k, i]; any dtype
PINION_KERNEL(copy_from, ConstView x, int64_t at, View y)
PINION_KERNEL(gather, ConstView x, ConstView index, View y)  // y[o,k,i] = x[o, index[o,k,i], i]
// dx = 0, then dx[o, index[o,k,i], i] += dy[o,k,i], in the order of k.
PINION_KERNEL(gather_backward, ConstView index, ConstView dy, View dx)
// y[i,:] = weight[ids[i],:]
PINION_KERNEL(embedding_forward, ConstView weight, ConstView ids, View y)
// dw = 0, then dw[ids[i],:] += dy[i,:] in the order of i; padding (an id, or -1) gets nothing.
PINION_KERNEL(embedding_backward, ConstView ids, ConstView dy, int64_t padding, View dw)

// --- normalisation and losses --------------------------------------------------------------------
PINION_KERNEL(softmax_forward, ConstView x, View y)                    // over the last dimension
PINION_KERNEL(softmax_backward, ConstView y, ConstView dy, View dx)    // dx = y (dy - sum(y dy))
PINION_KERNEL(log_softmax_forward, ConstView x, View y)
PINION_KERNEL(log_softmax_backward, ConstView y, ConstView dy, View dx)  // dx = dy - e^y sum(dy)
// y = (x - mean) rstd gamma + beta per row; mean and rstd (f32; f64 for f64) [rows] are for the
// backward pass.
PINION_KERNEL(layer_norm_forward, ConstView x, ConstView gamma, ConstView beta, double eps, View y,
              View mean, View rstd)
// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy gamma; dgamma = sum dy xhat; dbeta = sum dy.
PINION_KERNEL(layer_norm_backward, ConstView x, ConstView gamma, ConstView mean, ConstView rstd,
              ConstView dy, View dx, View dgamma, View dbeta)
// Loss and gradient in one pass over x [n,V] with class ids target (i64) [n]:
//   l_i = (1 - s) (lse(x_i) - x_i[t_i]) + s (lse(x_i) - mean(x_i)),  lse = log sum exp
//   loss[] = sum w_i l_i / sum w_i over t_i != ignore_index;   dx = d loss / d x
// w is weight [n] (f32) or 1 when empty; loss is f32 (f64 for f64); total[] = sum w_i.
// dx may be empty. A target outside [0,V) that is not ignore_index sets total to NaN.
PINION_KERNEL(cross_entropy, ConstView x, ConstView target, ConstView weight, int64_t ignore_index,
              double smoothing, View loss, View total, View dx)

// --- matrix products -----------------------------------------------------------------------------
// y[.., m, n] = op(a) op(b) (+ y when accumulate); 2-D, or 3-D with one batch extent in front. op
// is the transpose of the last two dimensions when its flag is set. y may be f32 over 16-bit
// operands.
PINION_KERNEL(matmul, ConstView a, bool transpose_a, ConstView b, bool transpose_b, bool accumulate,
              View y)
// y[m,n] = act(x[m,k] w[n,k]^T + b[n]); b may be empty. pre, when it is not empty and act is a form
// of GELU, receives the value before the activation.
PINION_KERNEL(linear_forward, ConstView x, ConstView w, ConstView b, Activation act, View y,
              View pre)
// Forward, loss, backward and weight gradients of a whole MLP in one pass over row blocks.
PINION_KERNEL(fused_mlp_train, FusedMlpArgs args)
PINION_KERNEL(fused_mlp_forward, FusedMlpArgs args)  // y only

// --- optimizers, clipping, scaling (flat arenas) -------------------------------------------------
// out[0] = sum of x^2, out[1] = number of non-finite elements; out is f64 [2].
PINION_KERNEL(squares_and_nonfinite, ConstView x, View out)
PINION_KERNEL(sgd_step, View w, ConstView dw, View momentum, SgdStep s)  // momentum may be empty
// vmax: amsgrad
PINION_KERNEL(adam_step, View w, ConstView dw, View m, View v, View vmax, AdamStep s)

// clang-format on

}  // namespace pinion::kernels

#undef PINION_KERNEL
