// SPDX-License-Identifier: Apache-2.0
#include "pinion/nn/attention.h"

#include "pinion/nn/init.h"
#include "pinion/nn/noise.h"
#include "pinion/runtime/graph.h"

namespace pinion::nn {
namespace {

void check_sequences(const char* name, const Tensor& x, const Tensor& weight) {
  PINION_CHECK(x.defined(), "MultiHeadAttention: expected a tensor for ", name,
               ", got an undefined one");
  PINION_CHECK(x.rank() == 3 && x.size(2) == weight.size(1), "MultiHeadAttention: expected ", name,
               " [B,T,", weight.size(1), "], got ", x.shape());
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(int64_t width, int64_t heads, double dropout, bool with_bias)
    : out_proj(width, width, with_bias),
      heads_(heads),
      dropout_(dropout),
      stream_(next_stream(StreamUse::noise)) {
  PINION_CHECK(heads > 0 && width % heads == 0,
               "MultiHeadAttention: expected a width that is a multiple of the heads, got width ",
               width, ", heads ", heads);
  PINION_CHECK(dropout >= 0 && dropout < 1, "MultiHeadAttention: expected dropout in [0, 1), got ",
               dropout);
  const MemoryTagScope tag(MemoryTag::parameters);
  in_proj_weight = Tensor({3 * width, width}).requires_grad(true);
  init::xavier_uniform(in_proj_weight);
  if (!with_bias) return;
  in_proj_bias = Tensor({3 * width}).requires_grad(true);
  init::zeros(in_proj_bias);
  init::zeros(out_proj.bias);
}

AttentionOptions MultiHeadAttention::next_options(const Tensor& key_padding_mask, bool causal) {
  AttentionOptions options;
  options.key_padding_mask = key_padding_mask;
  options.causal = causal;
  if (training() && dropout_ > 0) {
    options.dropout = dropout_;
    options.key = noise_key(stream_, calls_++);
    on_replay([this] { ++calls_; });
  }
  return options;
}

Tensor MultiHeadAttention::operator()(const Tensor& x, const Tensor& key_padding_mask,
                                      bool causal) {
  check_sequences("x", x, in_proj_weight);
  const AttentionOptions options = next_options(key_padding_mask, causal);
  const Shape in{x.size(0), x.size(1), 3, heads_, x.size(2) / heads_};
  const Tensor y = self_attention(reshape(linear(x, in_proj_weight, in_proj_bias), in), options);
  return out_proj(reshape(y, x.shape()));
}

Tensor MultiHeadAttention::attend(const Tensor& x, const Tensor& memory,
                                  const Tensor& key_padding_mask, bool causal) {
  check_sequences("x", x, in_proj_weight);
  check_sequences("memory", memory, in_proj_weight);
  const AttentionOptions options = next_options(key_padding_mask, causal);
  const auto projected = [&](const Tensor& from, int64_t part) {
    const int64_t width = from.size(2), at = part * width;
    const Tensor bias = in_proj_bias.defined() ? slice(in_proj_bias, 0, at, at + width) : Tensor();
    const Tensor y = linear(from, slice(in_proj_weight, 0, at, at + width), bias);
    return reshape(y, {from.size(0), from.size(1), heads_, width / heads_});
  };
  const Tensor y = attention(projected(x, 0), projected(memory, 1), projected(memory, 2), options);
  return out_proj(reshape(y, x.shape()));
}

void MultiHeadAttention::fields(Fields& f) {
  f("in_proj_weight", in_proj_weight);
  f("in_proj_bias", in_proj_bias);
  f("out_proj", out_proj);
  f.counter("calls", calls_);
}

}  // namespace pinion::nn
