// SPDX-License-Identifier: Apache-2.0
// What the two forms of attention share: AttentionArgs with types, for the device.
#pragma once

#include "pinion/kernels/cuda/launch.h"
#include "pinion/kernels/cuda/recording.h"
#include "pinion/kernels/formulas.h"
#include "pinion/kernels/kernels.h"

namespace pinion::kernels::cuda {

// Tokens of all heads, `row` elements apart.
template <class E>
struct Tokens {
  E* data;
  int64_t row;
};

template <class T>
struct Attention {
  using A = Accumulator<T>;
  int64_t batch, heads, queries, keys, width;
  Tokens<const T> q, k, v, dy;
  Tokens<T> y, dq, dk, dv;
  const bool* hidden;  // [B,Tk] or null
  A* lse;              // [B,H,Tq]
  A scale, keep_scale;
  bool causal, drops;
  uint32_t threshold;  // of a word that keeps its element
  ReplayedKey key;

  explicit Attention(const AttentionArgs& args)
      : batch(args.batch),
        heads(args.heads),
        queries(args.queries),
        keys(args.keys),
        width(args.width),
        q(tokens<const T>(args.q)),
        k(tokens<const T>(args.k)),
        v(tokens<const T>(args.v)),
        dy(tokens<const T>(args.dy)),
        y(tokens<T>(args.y)),
        dq(tokens<T>(args.dq)),
        dk(tokens<T>(args.dk)),
        dv(tokens<T>(args.dv)),
        hidden(args.hidden ? args.hidden.as<bool>() : nullptr),
        lse(args.lse.as<A>()),
        scale(static_cast<A>(args.scale)),
        keep_scale(static_cast<A>(1 / (1 - args.dropout))),
        causal(args.causal),
        drops(args.dropout > 0),
        threshold(bernoulli_threshold(1 - args.dropout)),
        key(args.key) {}

  // Token 0 of head `bh` of an operand with `count` tokens to a sequence.
  template <class E>
  __device__ __forceinline__ E* head(const Tokens<E>& x, int64_t count, int64_t bh) const {
    return x.data + bh / heads * count * x.row + bh % heads * width;
  }
  __device__ __forceinline__ bool is_hidden(int64_t bh, int64_t j) const {
    return hidden && hidden[bh / heads * keys + j];
  }
  // The element of the probabilities [B,H,Tq,Tk] that a draw is for.
  __device__ __forceinline__ int64_t element(int64_t bh, int64_t i, int64_t j) const {
    return (bh * queries + i) * keys + j;
  }
  // Whether dropout keeps an element, and what it multiplies it by, given the word drawn for it.
  __device__ __forceinline__ uint32_t keeps(uint32_t word) const { return word < threshold; }
  __device__ __forceinline__ A factor(uint32_t word) const {
    return keeps(word) ? keep_scale : A(0);
  }

 private:
  template <class E, class Void>
  static Tokens<E> tokens(const BasicHeads<Void>& x) {
    return {x.x ? x.x.template as<T>() : nullptr, x.row};
  }
};

// A row of scores whose log-sum-exp is kHidden sees no key: its probabilities are all 1 / keys, and
// its scores have no gradient.
template <class A>
struct RowOfScores {
  A lse, share, flow;
  __device__ __forceinline__ RowOfScores(A saved, int64_t keys) : lse(saved), share(1), flow(1) {
    if (saved == static_cast<A>(AttentionArgs::kHidden))
      share = A(1) / static_cast<A>(keys), flow = 0;
  }
  __device__ __forceinline__ A probability(A score) const {
    return math::exp_nonpositive(score - lse) * share;
  }
};

// On tensor cores; false, and nothing done, where they cannot take it: more than 128 tokens,
// another width than 32 or 64, rows off the boundaries of 16 bytes. T is BFloat16 or Half.
template <class T>
bool attend_on_tensor_cores(const CudaContext& ctx, const Attention<T>& problem);
template <class T>
bool attend_backward_on_tensor_cores(const CudaContext& ctx, const Attention<T>& problem);

}  // namespace pinion::kernels::cuda
