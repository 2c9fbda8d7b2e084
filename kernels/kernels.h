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
#include "pinion/kernels/image.h"

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

struct RelationalMemoryArgs;  // kernels/relational_memory.h, for its one user

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

// --- order --------------------------------------------------------------------------------------
// sorted = keys (i64 or i32) [n] in rising order, index (i64) [n] = where each was in keys; equal
// keys stay in their order. No block may overlap another.
PINION_KERNEL(sort_pairs, ConstView keys, View sorted, View index)
// y[i] = x[0] + ... + x[i - 1], i64
PINION_KERNEL(exclusive_scan, ConstView x, View y)
// The k largest of each row of x [rows,n] in falling order: y [rows,k], index (i64) [rows,k]; of
// equal ones that with the lowest index comes first, NaN before everything. k <= n.
PINION_KERNEL(top_k, ConstView x, View y, View index)
PINION_KERNEL(count_equal, ConstView a, ConstView b, View count)  // i64; count[] += #(a[i] == b[i])
// order[i] (i64) = Permutation(n, key)(first + i): part of a shuffled epoch of n samples, at most
// 2^31 of them, from any position on; kernels/permutation.h.
PINION_KERNEL(permute, int64_t n, PhiloxKey key, int64_t first, View order)
// A batch: y[i,c] = x[index[i], c] in the type of y, and 0 for rows i and columns c that there are
// not. x [N,C] of any dtype, y [m,w] floating, m and w at least the size of index and C.
PINION_KERNEL(gather_cast, ConstView x, ConstView index, View y)

// --- normalisation and losses --------------------------------------------------------------------
PINION_KERNEL(softmax_forward, ConstView x, View y)                    // over the last dimension
PINION_KERNEL(softmax_backward, ConstView y, ConstView dy, View dx)    // dx = y (dy - sum(y dy))
PINION_KERNEL(log_softmax_forward, ConstView x, View y)
PINION_KERNEL(log_softmax_backward, ConstView y, ConstView dy, View dx)  // dx = dy - e^y sum(dy)
// With args.residual, the residual connection in front of it too, both ways.
PINION_KERNEL(layer_norm_forward, LayerNormArgs args)
// dx = (g - mean(g) - xhat c) / divisor, g = dy gamma, c = mean(g xhat) or, with unbiased_std, the
// sum over n - 1 times std / divisor
PINION_KERNEL(layer_norm_backward, LayerNormArgs args)
PINION_KERNEL(attention_forward, AttentionArgs args)
PINION_KERNEL(attention_backward, AttentionArgs args)  // the probabilities are made again
// Loss and gradient in one pass over x [n,V] with class ids target (i64) [n]:
//   l_i = (1 - s) (lse(x_i) - x_i[t_i]) + s (lse(x_i) - mean(x_i)),  lse = log sum exp
//   loss[] = sum w_i l_i / sum w_i over t_i != ignore_index;   dx = d loss / d x
// w is weight [n] (f32) or 1 when empty; loss is f32 (f64 for f64); total[] = sum w_i.
// dx may be empty. A target outside [0,V) that is not ignore_index sets total to NaN.
PINION_KERNEL(cross_entropy, ConstView x, ConstView target, ConstView weight, int64_t ignore_index,
              double smoothing, View loss, View total, View dx)

// --- images [N,H,W,C]: convolution with filters [K,R,S,C], y [N,P,Q,K] --------------------------
// y[n,p,q,k] = sum over r,s,c of x[n, p stride - padding + r dilation, .., c] w[k,r,s,c]
PINION_KERNEL(conv2d_forward, ConstView x, ConstView w, Conv2d c, View y)
PINION_KERNEL(conv2d_backward_input, ConstView w, ConstView dy, Conv2d c, View dx)
PINION_KERNEL(conv2d_backward_weight, ConstView x, ConstView dy, Conv2d c, View dw)

// --- batch normalisation (Ioffe & Szegedy 2015) -------------------------------------------------
// gamma, beta, means, variances and sums are f32 (f64 over f64); g = groups.
// mean[g,c] and var[g,c] (biased) over the images and pixels of a group. Where they are not empty,
// running_mean[c] and running_var[c] follow, group after group: r += momentum (batch - r), with the
// unbiased variance. batches[] (i64), unless it is empty, gains the number of groups.
PINION_KERNEL(batch_norm_statistics, ConstView x, BatchNorm b, View mean, View var,
              View running_mean, View running_var, View batches)
// y = act((x - mean) gamma / sqrt(var + eps) + beta (+ residual)); mean and var [g,c]
PINION_KERNEL(batch_norm_apply, ConstView x, ConstView mean, ConstView var, ConstView gamma,
              ConstView beta, ConstView residual, BatchNorm b, View y)
// d = dy, with relu dy where y > 0 and else 0; sums[0,g,c] = sum of d, sums[1,g,c] = sum of d xhat;
// dgamma[c] and dbeta[c] are their sums over groups and may be empty. y is read with relu only.
PINION_KERNEL(batch_norm_backward_sums, ConstView x, ConstView mean, ConstView var, ConstView y,
              ConstView dy, BatchNorm b, View sums, View dgamma, View dbeta)
// dx = gamma / sqrt(var + eps) (d - (sums[0] + xhat sums[1]) / n), n elements a group and channel;
// without sums, as when mean and var are constants, dx = gamma / sqrt(var + eps) d. dresidual = d.
// Either may be empty.
PINION_KERNEL(batch_norm_backward, ConstView x, ConstView mean, ConstView var, ConstView gamma,
              ConstView y, ConstView dy, ConstView sums, BatchNorm b, View dx, View dresidual)

// --- pooling: x [N,H,W,C], y [N,P,Q,C] ----------------------------------------------------------
// y = max over the window; index (u8) = r window + s of the first that reaches it, or is empty;
// NaN wins. Window 16 at most.
PINION_KERNEL(max_pool_forward, ConstView x, Pool2d p, View y, View index)
PINION_KERNEL(max_pool_backward, ConstView index, ConstView dy, Pool2d p, View dx)
// y = mean over the window, padding counted as zeros; adaptive windows have none.
PINION_KERNEL(avg_pool_forward, ConstView x, Pool2d p, View y)
PINION_KERNEL(avg_pool_backward, ConstView dy, Pool2d p, View dx)
// y[n,i,j,:3] = scaled x[n, top + i, left + j', :], j' = flip ? w - 1 - j : j; other channels 0.
// x (u8) [N,H,W,3], y [N,h,w,3 or more]; place (i32) [N,3] = top, left, flip of each image, which
// the caller has checked.
PINION_KERNEL(prepare_images, ConstView x, ConstView place, ColourScale s, View y)

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
// The relational memory of a report, all words in turn; kernels/relational_memory.h.
PINION_KERNEL(relational_memory_forward, RelationalMemoryArgs args)
PINION_KERNEL(relational_memory_backward, RelationalMemoryArgs args)
// Forward, loss, backward and weight gradients of a whole MLP in one pass over row blocks.
PINION_KERNEL(fused_mlp_train, FusedMlpArgs args)
PINION_KERNEL(fused_mlp_forward, FusedMlpArgs args)  // y only
// Whole training runs of small classifiers in one call. CUDA: up to 32 features, 64 hidden units,
// 16 classes, and as many samples as fit in shared memory; throws Error (device) otherwise.
PINION_KERNEL(toy_train, ToyTrainArgs args)

// --- optimizers, clipping, scaling (flat arenas) -------------------------------------------------
// out[0] = sum of x^2, out[1] = number of non-finite elements; out is f64 [2].
PINION_KERNEL(squares_and_nonfinite, ConstView x, View out)
PINION_KERNEL(sgd_step, View w, ConstView dw, View momentum, SgdStep s)  // momentum may be empty
// vmax: amsgrad
PINION_KERNEL(adam_step, View w, ConstView dw, View m, View v, View vmax, AdamStep s)
// Steps whose numbers stand in the device's memory (kernels/step_control.h), for recorded steps:
// control is one row of f64 [arenas, 5]. lr, step and grad_scale of `s`, and first, are not read.
// A step that is not skipped counts itself.
PINION_KERNEL(sgd_step_controlled, View w, ConstView dw, View momentum, SgdStep s, View control)
PINION_KERNEL(adam_step_controlled, View w, ConstView dw, View m, View v, View vmax, AdamStep s,
              View control)
// stats: f64 [arenas, 2], rows of squares_and_nonfinite; loss_scale f32 [] or empty; control f64
// [arenas, 5]
PINION_KERNEL(decide_step, ConstView stats, ConstView loss_scale, double max_norm, View control)
// state: f32 [3], a LossScale; control: the row that says whether the step was skipped
PINION_KERNEL(update_loss_scale, ConstView control, LossScaleRule rule, View state)

// clang-format on

}  // namespace pinion::kernels

#undef PINION_KERNEL
