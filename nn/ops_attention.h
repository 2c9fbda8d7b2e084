// SPDX-License-Identifier: Apache-2.0
// Attention as one operation. Declared as in ops.h.
#pragma once

#include "pinion/nn/ops.h"

namespace pinion::nn {

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

}  // namespace pinion::nn
