// SPDX-License-Identifier: Apache-2.0
// MultiHeadAttention: projections around attention, with the parameters of torch.nn's layer.
#pragma once

#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"

namespace pinion::nn {

// Attention of `heads` heads (Vaswani et al. 2017, section 3.2.2) between projections of `width`
// features, all of which the heads share out. Sequences are [B,T,width]; masks are as in
// AttentionOptions. Weights start Xavier-uniform, biases at zero. In training mode probabilities
// are dropped with `dropout`; the n-th call draws with noise_key(the layer's stream, n) of
// nn/noise.h.
struct MultiHeadAttention : Module {
  Tensor in_proj_weight;  // [3 width, width]: of queries, keys and values in turn
  Tensor in_proj_bias;    // [3 width], or undefined
  Linear out_proj;

  MultiHeadAttention(int64_t width, int64_t heads, double dropout = 0, bool with_bias = true);
  // x attends to itself: one projection, whose result the heads read where it lies.
  Tensor operator()(const Tensor& x, const Tensor& key_padding_mask = {}, bool causal = false);
  // x [B,Tq,width] attends to memory [B,Tk,width].
  Tensor attend(const Tensor& x, const Tensor& memory, const Tensor& key_padding_mask = {},
                bool causal = false);
  void fields(Fields& f) override;
  int64_t heads() const { return heads_; }
  double dropout() const { return dropout_; }

 private:
  AttentionOptions next_options(const Tensor& key_padding_mask, bool causal);

  int64_t heads_;
  double dropout_;
  uint32_t stream_;
  uint64_t calls_ = 0;
};

}  // namespace pinion::nn
