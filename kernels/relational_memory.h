// SPDX-License-Identifier: Apache-2.0
// What the kernels of the relational memory take: its equations, and the one block in which the
// forward pass leaves what the backward pass reads. Products that need no loop over words (of the
// words themselves, and all gradients of weights) are ordinary ones around these kernels.
#pragma once

#include "pinion/kernels/philox.h"
#include "pinion/kernels/types.h"

namespace pinion::kernels {

// B reports of T words, S slots of C features, H heads of d = C / H; M[0] is given, and for a word
// y with key, value and gates [k v g] = y [Wk;Wv;W]^T + [bk;bv;bW]:
//   [Q K V] = M in^T,  Z = attention(Q; [K;k], [V;v]) with scale 1 / sqrt(d) and dropout
//   A = M + Z out^T,  E = relu(relu(A first^T) second^T),  [i f] = sigmoid(g + tanh(M) U^T)
//   M[t + 1] = i tanh(A + E) + f M[t]
// every product with its bias. f32 and f64. Chen et al. 2020, section 2.2.
struct RelationalMemoryArgs {
  int64_t batch = 0, steps = 0, slots = 0, heads = 0, width = 0;  // B, T, S, H, C
  double dropout = 0;  // of the probabilities: what kernels::dropout does to [B,H,S,S+1] with
  PhiloxKey key;       // this key for word 0, step + t for word t
  int64_t keys = 0;    // how many the call sets aside, if more than it has words

  struct Linear {
    ConstView weight, bias;  // [out,in], [out]
  };
  Linear in;                  // [3C,C]: queries, keys and values
  Linear out, first, second;  // [C,C]
  Linear gates;               // U, [2C,C]
  ConstView words;            // [B,T,4C]: key, value and gates of each word
  View y;                     // forward: M[t + 1] as [B,T,S C]
  ConstView dy;               // backward, as y
  View dwords;                // [B,T,4C]

  // Rows are word by word: row (t B + b) S + s of [T B S,..]. The backward pass replaces what it
  // has no more use for by the gradient that a product of weights needs, as named behind "->".
  View memory;       // [(T + 1) B S, C]: M; the rows of word 0 are given
  View projected;    // [T B S, 3C]: Q K V -> their gradients
  View attended;     // [T B S, C]: Z
  View sum;          // [T B S, C]: A
  View hidden;       // [T B S, C]: between first and second
  View extra;        // [T B S, C]: E -> the gradient in front of its ReLU
  View tanh_memory;  // [T B S, C]
  View gated;        // [T B S, 2C]: i and f -> the gradients in front of the sigmoids
  View tanh_next;    // [T B S, C]: tanh(A + E) -> the gradient of Z out^T
  View dhidden;      // [T B S, C]: written by the backward pass, before the ReLU
  // [T B S, 2 H (S + 1)]: probabilities, and the factors of dropout
  View probabilities;
};

}  // namespace pinion::kernels
