// SPDX-License-Identifier: Apache-2.0
// The parts of R2Gen's transformer (Chen et al. 2020), with the names its checkpoints give them.
// Sequences are [B,T,C]; C is d_model everywhere.
#pragma once

#include <optional>
#include <vector>

#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"

namespace pinion::report {

// Attention with a projection each for queries, keys, values and the result. Probabilities are
// dropped with 0.1, whatever the model's dropout is, as in the published model.
struct Attention : nn::Module {
  std::vector<nn::Linear> linears;

  Attention(int64_t width, int64_t heads);
  // query [B,Tq,C], memory [B,Tk,C] -> [B,Tq,C]; masks as in nn::AttentionOptions.
  Tensor operator()(const Tensor& query, const Tensor& memory, const Tensor& key_padding_mask = {},
                    bool causal = false);
  // The projections [B,T,C] -> [B,T,H,C/H] of keys and values, for decoding that keeps them, and
  // attention to them.
  Tensor keys(const Tensor& memory) const { return split(linears[1](memory)); }
  Tensor values(const Tensor& memory) const { return split(linears[2](memory)); }
  Tensor attend(const Tensor& query, const Tensor& keys, const Tensor& values,
                const nn::AttentionOptions& options = {}) const;
  // The dropout of the next `calls` calls, the keys of which follow each other.
  nn::AttentionOptions draw(uint64_t calls = 1);
  // How much each query attends to each place, the mean over heads: softmax(q k^T / sqrt(d)), as
  // f64 [B,Tq,Tk] on the CPU. To look at, not to train with.
  Tensor probabilities(const Tensor& query, const Tensor& keys) const;
  void fields(nn::Fields& f) override;

 private:
  Tensor split(const Tensor& x) const;  // into heads

  int64_t heads_;
  uint32_t stream_;
  uint64_t calls_ = 0;
};

struct FeedForward : nn::Module {
  nn::Linear w_1, w_2;
  nn::Dropout dropout;

  FeedForward(int64_t width, int64_t hidden, double p);
  Tensor operator()(const Tensor& x);
  void fields(nn::Fields& f) override;
};

// Two linear layers with a ReLU between them, named 0 and 2.
struct TwoLinear : nn::Module {
  nn::Linear first, second;

  TwoLinear(int64_t in, int64_t hidden, int64_t out);
  Tensor operator()(const Tensor& x, Activation last = Activation::none) const;
  void fields(nn::Fields& f) override;
};

// What is added to the gamma and beta of a norm: [C] for all tokens, [B,T,C] for each. Undefined
// where a norm is not conditioned.
struct Shifts {
  Tensor gamma, beta;
  Tensor each_gamma, each_beta;
};

// (x - mean) / (std + 1e-6) gamma + beta, with the unbiased std. With a memory of `memory` features
// gamma and beta are shifted for each token by what two networks make of it: section 2.3 of the
// paper.
struct Norm : nn::Module {
  Tensor gamma, beta;  // [C]
  std::optional<TwoLinear> mlp_gamma, mlp_beta;

  explicit Norm(int64_t width, int64_t memory = 0);
  Tensor operator()(const Tensor& x, const Shifts& shifts = {}) const;
  Shifts shifts(const Tensor& m) const;  // of m [B,T,memory], which may be undefined
  void fields(nn::Fields& f) override;
};

// Those of many norms, which read the same m: one product for the first layers of all networks and
// a batched one for the second.
std::vector<Shifts> shifts_of(const std::vector<const Norm*>& norms, const Tensor& m);

// x + dropout(f(norm(x))): what encloses every part of a layer.
struct Sublayer : nn::Module {
  Norm norm;
  nn::Dropout dropout;

  Sublayer(int64_t width, double p, int64_t memory = 0) : norm(width, memory), dropout(p) {}
  template <class F>
  Tensor operator()(const Tensor& x, const Shifts& shifts, F&& f) {
    return x + dropout(f(norm(x, shifts)));
  }
  void fields(nn::Fields& f) override;
};

struct EncoderLayer : nn::Module {
  Attention self_attn;
  FeedForward feed_forward;
  std::vector<Sublayer> sublayer;

  EncoderLayer(int64_t width, int64_t hidden, int64_t heads, double p);
  Tensor operator()(const Tensor& x);
  void fields(nn::Fields& f) override;
};

struct DecoderLayer : nn::Module {
  Attention self_attn, src_attn;
  FeedForward feed_forward;
  std::vector<Sublayer> sublayer;

  // memory: features that condition the norms; 0 for plain ones.
  DecoderLayer(int64_t width, int64_t hidden, int64_t heads, double p, int64_t memory);
  // x [B,T,C] attends to itself, causally, and to encoded [B,P,C]; shifts of the three norms.
  Tensor operator()(Tensor x, const Tensor& encoded, const Tensor& key_padding_mask,
                    const Shifts* shifts);
  // The same, as far as what the words of x attend to in encoded: f64 [B,T,P].
  Tensor image_attention(Tensor x, const Tensor& encoded, const Tensor& key_padding_mask,
                         const Shifts* shifts);
  // What rows that are being written need of their words so far and of the image. As many rows as
  // there are to each of the B images lie next to each other: R in all.
  struct Cache {
    Tensor keys, values;              // [R,t,H,d]; undefined before the first word
    Tensor image_keys, image_values;  // [B,P,H,d]
  };
  Cache start(const Tensor& encoded) const;
  // The next word alone: x [R,1,C] -> [R,1,C]; its key and value join the cache. m [R,1,memory]
  // or undefined.
  Tensor step(Tensor x, Cache& cache, const Tensor& m);
  void fields(nn::Fields& f) override;
};

}  // namespace pinion::report
