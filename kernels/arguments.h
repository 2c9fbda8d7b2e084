// SPDX-License-Identifier: Apache-2.0
// The structs that kernels with many arguments take.
#pragma once

#include "pinion/kernels/philox.h"
#include "pinion/kernels/types.h"

namespace pinion {

enum class Activation : uint8_t { none, relu, gelu, gelu_tanh };  // gelu is the erf form

// What differences from the mean are divided by: sqrt(variance + eps), the variance a mean over n
// elements, as torch.nn.LayerNorm has it; or std + eps, the standard deviation over n - 1, which
// must be at least 1.
enum class LayerNormForm : uint8_t { torch, unbiased_std };

namespace kernels {

// One step of SGD as torch.optim.SGD defines it: g = dw + weight_decay w; with momentum
// b = first ? g : momentum b + (1 - dampening) g; g = nesterov ? g + momentum b : b; w -= lr g.
struct SgdStep {
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false;
  bool first = false;     // the first step of this range: b = g
  double grad_scale = 1;  // multiplies dw first: unscaling and clipping without a pass of their own
  View low;               // f32 only: receives the new weights in bf16 or f16; or empty
};

// One step of Adam (Kingma & Ba 2015, algorithm 1) or AdamW (Loshchilov & Hutter 2019), as
// torch.optim computes it: denominators are sqrt(v) / sqrt(1 - beta2^t) + eps.
struct AdamStep {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = false;  // AdamW: w *= 1 - lr weight_decay, instead of g += weight_decay w
  int64_t step = 1;        // t, counted from 1
  double grad_scale = 1;
  View low;  // as of SgdStep
};

// How torch.amp.GradScaler moves its scale.
struct LossScaleRule {
  double growth_factor = 2, backoff_factor = 0.5, min_scale = 1;
  int64_t growth_interval = 2000;
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

// A residual connection in front of a normalisation: sum = x + dropout(branch), to the bit what
// kernels::dropout and kernels::add would make of it. All have one shape.
struct ResidualArgs {
  ConstView x, branch;  // forward; empty where there is no residual connection
  View sum;             // forward: LayerNormArgs::x is this block
  double dropout = 0;
  PhiloxKey key;
  ConstView dsum;  // backward: the gradient of sum from elsewhere, which dx gains; or empty
  View dbranch;    // backward: dropout of dx; or empty
};

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
  ResidualArgs residual;
};

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

// Whole training runs of M models of one shape, linear(relu(linear(x))) with cross-entropy and
// Adam, on the same data: every epoch, forward, loss, backward and update, in one call. Each model
// has initial weights, an order of samples and a learning rate of its own, and becomes what it
// would have become alone, bit for bit. All numbers are f32 but those of the losses and rates.
struct ToyTrainArgs {
  ConstView x;       // [samples, features]
  ConstView target;  // [samples] i64; one outside [0, classes) makes losses and weights NaN
  View w1, b1;       // [M, hidden, features], [M, hidden]: initial weights, then trained ones
  View w2, b2;       // [M, classes, hidden], [M, classes]
  ConstView lr;      // [M] f64
  ConstView seed;    // [M] i64: epoch e runs in the order Permutation(samples, {seed, stream, e})
  uint32_t stream = 0;
  int64_t epochs = 0;
  int64_t batch = 0;  // samples of a step; the last step of an epoch has what is left
  AdamStep adam;      // less lr, low, and step, which counts from 1
  View loss;          // [M, epochs] f64: the mean over the steps of their mean losses
  View correct;       // [M, epochs] i64: samples whose target was the first largest logit
};

}  // namespace kernels
}  // namespace pinion
