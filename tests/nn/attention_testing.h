// SPDX-License-Identifier: Apache-2.0
// What the tests of attention share on every device.
#pragma once

#include "fused_mlp_testing.h"
#include "op_harness.h"

namespace pinion::testing {

struct Problem {
  int64_t batch, queries, keys, heads, width;
  bool causal = false;
  double dropout = 0;
  int64_t hidden_first = 0, hidden_last = 0;  // so many keys at either end are padding
};

inline void PrintTo(const Problem& p, std::ostream* out) {
  *out << cat({p.batch, " x ", p.queries, " of ", p.keys, ", ", p.heads, " heads of ", p.width,
               p.causal ? " causal" : "", " dropout ", p.dropout, " hidden ", p.hidden_first, " ",
               p.hidden_last});
}

inline bool is_hidden(const Problem& p, int64_t j) {
  return j < p.hidden_first || j >= p.keys - p.hidden_last;
}

inline nn::AttentionOptions options_of(const Problem& p) {
  nn::AttentionOptions options;
  options.causal = p.causal;
  options.dropout = p.dropout;
  options.key = {11, 5, 3};
  if (p.hidden_first + p.hidden_last == 0) return options;
  options.key_padding_mask = Tensor({p.batch, p.keys}, DType::boolean);
  bool* mask = options.key_padding_mask.mut().as<bool>();
  for (int64_t i = 0; i < p.batch * p.keys; ++i) mask[i] = is_hidden(p, i % p.keys);
  return options;
}

// q, k and v of the dtype, of normal numbers.
inline Tensors inputs_of(const Problem& p, DType dtype = DType::f32) {
  Tensors x;
  for (const int64_t tokens : {p.queries, p.keys, p.keys})
    x.push_back(converted(noise({p.batch, tokens, p.heads, p.width}, x.size() + 1), dtype)
                    .requires_grad(true));
  return x;
}

// The result of f(q, k, v), and the gradients of q, k and v.
template <class F>
Tensors results_of(Tensors x, F f) {
  for (size_t i = 0; i < x.size(); ++i) x[i].set_grad({});
  const Tensor y = f(x);
  backward(y, converted(noise(y.shape(), 9), y.dtype()).to(y.device()));
  return {y.detach(), x[0].grad(), x[1].grad(), x[2].grad()};
}
inline Tensors results_of(const Problem& p, const Tensors& x) {
  nn::AttentionOptions options = options_of(p);
  if (options.key_padding_mask.defined())
    options.key_padding_mask = options.key_padding_mask.to(x[0].device());
  return results_of(x,
                    [&](const Tensors& in) { return nn::attention(in[0], in[1], in[2], options); });
}

}  // namespace pinion::testing
