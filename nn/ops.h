// SPDX-License-Identifier: Apache-2.0
// Differentiable operations: the functions models are written with. Shapes: "[..]" is any leading
// dimensions. Tensors of one call must share device and dtype unless a line says otherwise; a
// violation throws pinion::Error that names the operation, what it expected and what it got; so
// does, on the CPU, an id outside its range. No implicit broadcasting: the operations that repeat
// an operand say so by name.
#pragma once

#include "pinion/kernels/arguments.h"
#include "pinion/runtime/tensor.h"

namespace pinion {

// Element-wise, same shapes.
Tensor operator+(const Tensor& a, const Tensor& b);
Tensor operator-(const Tensor& a, const Tensor& b);
Tensor operator*(const Tensor& a, const Tensor& b);
Tensor operator/(const Tensor& a, const Tensor& b);
// With a number.
Tensor operator+(const Tensor& x, double shift);
Tensor operator-(const Tensor& x, double shift);
Tensor operator*(const Tensor& x, double scale);
Tensor operator*(double scale, const Tensor& x);
Tensor operator/(const Tensor& x, double divisor);
Tensor operator-(const Tensor& x);

namespace nn {

// --- element-wise ---------------------------------------------------------------------------
enum class GeluForm : uint8_t { erf, tanh };  // torch's approximate="none" and "tanh"
Tensor relu(const Tensor& x);
Tensor gelu(const Tensor& x, GeluForm form = GeluForm::erf);
Tensor sigmoid(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);                                 // natural; -inf at 0, NaN below
Tensor affine(const Tensor& x, double scale, double shift);  // scale x + shift
Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);  // mask: bool, x's shape
Tensor cast(const Tensor& x, DType dtype);  // differentiable between floats

// --- matrix products ------------------------------------------------------------------------
Tensor matmul(const Tensor& a, const Tensor& b);  // [m,k] [k,n] -> [m,n]
// [b,m,k] [b,k,n] -> [b,m,n]; the flags say that an operand comes with its last two swapped
Tensor bmm(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false);
// y = act(x w^T + b): x [..,in], w [out,in], b [out] or undefined -> [..,out]
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b = {},
              Activation activation = Activation::none);
Tensor add_bias(const Tensor& x, const Tensor& b);  // [..,c] + [c]

// --- reductions -----------------------------------------------------------------------------
// Over one dimension (-1 is the last), which is removed; or over everything -> [].
Tensor sum(const Tensor& x);
Tensor sum(const Tensor& x, int dim);
Tensor mean(const Tensor& x);
Tensor mean(const Tensor& x, int dim);
Tensor max(const Tensor& x, int dim);     // the gradient goes to the first maximum
Tensor argmax(const Tensor& x, int dim);  // i64: where max() took it; not differentiable

// --- rows -----------------------------------------------------------------------------------
Tensor softmax(const Tensor& x);      // over the last dimension
Tensor log_softmax(const Tensor& x);  // over the last dimension
// Over the last dimension, x [..,c], gamma [c], beta [c]: (x - mean) / sqrt(variance + eps) gamma +
// beta, or with unbiased_std (x - mean) / (std + eps) gamma + beta, std over c - 1; c >= 2 then.
Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps = 1e-5,
                  LayerNormForm form = LayerNormForm::torch);
// The same with gamma + delta_gamma and beta + delta_beta, both deltas of x's shape: what a memory
// conditions the normalisation on (Chen et al. 2020, section 2.3).
Tensor conditional_layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                              const Tensor& delta_gamma, const Tensor& delta_beta,
                              double eps = 1e-6, LayerNormForm form = LayerNormForm::unbiased_std);

// A residual connection and the normalisation behind it, to the bit
//   sum = x + dropout(branch, p, key),  normalised = layer_norm(sum, gamma, beta, eps, form)
// but one kernel each way: the backward pass adds the gradient that sum has from elsewhere.
struct ResidualNorm {
  Tensor sum, normalised;
};
ResidualNorm residual_layer_norm(const Tensor& x, const Tensor& branch, const Tensor& gamma,
                                 const Tensor& beta, double p = 0, const PhiloxKey& key = {},
                                 double eps = 1e-5, LayerNormForm form = LayerNormForm::torch);

struct CrossEntropyOptions {
  int64_t ignore_index = -100;  // targets with this id carry no weight
  double label_smoothing = 0;   // in [0, 1]
  Tensor weight;                // per token, f32, targets' shape; undefined = 1
};
// logits [..,V], target i64 [..] -> []: the mean weighted by the tokens' weights, as in
// kernels::cross_entropy. Computes the gradient in the same pass when one will be needed.
// A target that is neither in [0, V) nor ignore_index throws on the CPU and gives NaN on a device.
Tensor cross_entropy(const Tensor& logits, const Tensor& target,
                     const CrossEntropyOptions& options = {});
Tensor mse_loss(const Tensor& x, const Tensor& target);  // mean of squares -> []

// --- attention ------------------------------------------------------------------------------
struct AttentionOptions {
  Tensor key_padding_mask;  // bool [B,Tk], true for keys that no query sees; undefined: none
  bool causal = false;      // query i sees keys 0 to i
  double scale = 0;         // of the scores; 0: 1 / sqrt(d)
  double dropout = 0;       // of the probabilities, in [0, 1); draws by `key`
  PhiloxKey key;
};
// Scaled dot-product attention of H heads: q [B,Tq,H,d], k [B,Tk,H,d], v [B,Tk,H,d] -> [B,Tq,H,d].
// y = dropout(softmax(scale q k^T)) v, computed without keeping the probabilities. Scores of keys
// that a query may not see are replaced by -1e9 before the softmax: their probability is 0, and a
// query that sees no key gets the mean of all values.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionOptions& options = {});
// The same of q, k and v in one tensor, as one projection makes them: [B,T,3,H,d] -> [B,T,H,d].
Tensor self_attention(const Tensor& qkv, const AttentionOptions& options = {});

// --- shape ----------------------------------------------------------------------------------
Tensor reshape(const Tensor& x, const Shape& shape);    // shares memory
Tensor transpose(const Tensor& x, int dim0, int dim1);  // a copy with two dimensions swapped
Tensor concat(const Tensors& parts, int dim);           // equal but for dim
Tensor slice(const Tensor& x, int dim, int64_t begin, int64_t end);  // dim 0 shares memory
// y[.., k, ..] = x[.., index[.., k, ..], ..] along dim; index i64, equal to x but for dim.
Tensor gather(const Tensor& x, int dim, const Tensor& index);

// --- lookup, noise --------------------------------------------------------------------------
// weight [V,c], ids i64 [..] -> [..,c]; the row `padding` gets no gradient (-1: none is padding).
Tensor embedding(const Tensor& weight, const Tensor& ids, int64_t padding = -1);
// Zeroes elements with probability p in [0, 1) and scales the rest by 1 / (1 - p); draws by `key`.
Tensor dropout(const Tensor& x, double p, const PhiloxKey& key);

}  // namespace nn
}  // namespace pinion
