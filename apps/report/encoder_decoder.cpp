// SPDX-License-Identifier: Apache-2.0
// Construction with R2Gen's initial values, and the two halves.
#include "pinion/apps/report/encoder_decoder.h"

#include <cmath>

#include "pinion/nn/init.h"

namespace pinion::report {

namespace {

constexpr int64_t kPositions = 5000;

// sin and cos of t / 10000^(2i / C) in turn (Vaswani et al. 2017, section 3.5), in f32.
Tensor sinusoids(int64_t width) {
  std::vector<float> table(static_cast<size_t>(kPositions * width));
  for (int64_t i = 0; i < width; i += 2) {
    const float rate =
        std::exp(static_cast<float>(i) * -(std::log(10000.0F) / static_cast<float>(width)));
    for (int64_t t = 0; t < kPositions; ++t) {
      const float angle = static_cast<float>(t) * rate;
      table[static_cast<size_t>(t * width + i)] = std::sin(angle);
      if (i + 1 < width) table[static_cast<size_t>(t * width + i + 1)] = std::cos(angle);
    }
  }
  return Tensor::of(table, {1, kPositions, width});
}

// R2Gen draws every matrix of the transformer so, but not those of att_embed and logit.
void xavier(nn::Module& module) {
  for (Tensor& parameter : module.parameters())
    if (parameter.rank() > 1) nn::init::xavier_uniform(parameter);
}

}  // namespace

EncoderDecoder::EncoderDecoder(const TransformerOptions& o)
    : options_(o),
      att_embed_(o.d_vf, o.d_model),
      att_dropout_(o.drop_prob_lm),
      encoder_norm_(o.d_model),
      decoder_norm_(o.d_model),
      lut_(o.vocabulary, o.d_model),
      positions_(sinusoids(o.d_model)),
      position_dropout_(o.dropout),
      logit_(o.d_model, o.vocabulary) {
  const int64_t conditioned = o.memory == MemoryKind::rm_mcln ? o.rm_slots * o.d_model : int64_t{0};
  for (int64_t i = 0; i < o.layers; ++i) {
    encoder_layers_.emplace_back(o.d_model, o.d_ff, o.heads, o.dropout);
    decoder_layers_.emplace_back(o.d_model, o.d_ff, o.heads, o.dropout, conditioned);
    xavier(encoder_layers_.back());
    xavier(decoder_layers_.back());
  }
  nn::init::xavier_uniform(lut_.weight);
  if (o.memory == MemoryKind::base) return;
  PINION_REQUIRE(usage, o.rm_heads > 0 && o.d_model % o.rm_heads == 0,
                 "--rm_num_heads: expected a divisor of the width ", o.d_model, ", got ",
                 o.rm_heads);
  memory_.emplace(o.d_model, o.rm_heads, o.rm_slots);
  xavier(*memory_);
  if (o.memory == MemoryKind::rm) logit_ = nn::Linear((1 + o.rm_slots) * o.d_model, o.vocabulary);
}

Tensor EncoderDecoder::encode(const Tensor& features) {
  Tensor x = att_dropout_(att_embed_(features, Activation::relu));
  for (EncoderLayer& layer : encoder_layers_) x = layer(x);
  return encoder_norm_(x);
}

Tensor EncoderDecoder::embed(const Tensor& ids, int64_t first) {
  const int64_t batch = ids.size(0), steps = ids.size(1), width = options_.d_model;
  PINION_REQUIRE(data, first + steps <= kPositions, "report: expected at most ", kPositions,
                 " words, got ", steps);
  const Tensor words = lut_(ids) * std::sqrt(static_cast<double>(width));
  const Tensor positions =
      nn::cast(positions_.alias({kPositions, width}).rows(first, first + steps), words.dtype());
  const Tensor sum = nn::add_bias(nn::reshape(words, {batch, steps * width}),
                                  nn::reshape(positions, {steps * width}));
  return position_dropout_(nn::reshape(sum, {batch, steps, width}));
}

Tensor EncoderDecoder::decode(const Tensor& encoded, const Tensor& ids, const Tensor& padding) {
  return logit_(decoded(encoded, ids, padding));
}

Tensor EncoderDecoder::decode_last(const Tensor& encoded, const Tensor& ids) {
  const Tensor x = decoded(encoded, ids, {});
  const Tensor last = nn::slice(x, 1, x.size(1) - 1, x.size(1));
  return logit_(nn::reshape(last, {x.size(0), x.size(2)}));
}

Tensor EncoderDecoder::decoded(const Tensor& encoded, const Tensor& ids, const Tensor& padding) {
  // The memory reads the words through its own draw of the dropout, as in the published model.
  const Tensor m = memory_ ? remember(embed(ids)) : Tensor();
  const std::vector<Shifts> shifts = shifts_of(decoder_norms(), m);
  const Shifts* next = shifts.data();
  Tensor x = embed(ids);
  for (DecoderLayer& layer : decoder_layers_) {
    x = layer(x, encoded, padding, next);
    next += layer.sublayer.size();
  }
  x = decoder_norm_(x);
  return options_.memory == MemoryKind::rm ? nn::concat({x, m}, 2) : x;
}

Tensor EncoderDecoder::image_attention(const Tensor& encoded, const Tensor& ids) {
  const Tensor m = memory_ ? remember(embed(ids)) : Tensor();
  const std::vector<Shifts> shifts = shifts_of(decoder_norms(), m);
  const Shifts* next = shifts.data();
  Tensor x = embed(ids);
  for (size_t i = 0; i + 1 < decoder_layers_.size(); ++i) {
    x = decoder_layers_[i](x, encoded, {}, next);
    next += decoder_layers_[i].sublayer.size();
  }
  return decoder_layers_.back().image_attention(x, encoded, {}, next);
}

std::vector<const Norm*> EncoderDecoder::decoder_norms() const {
  std::vector<const Norm*> norms;
  for (const DecoderLayer& layer : decoder_layers_)
    for (const Sublayer& sublayer : layer.sublayer) norms.push_back(&sublayer.norm);
  return norms;
}

namespace {

// Rows of x [R, …] by number.
Tensor rows_of(const Tensor& x, const Tensor& rows) {
  const Tensor flat = x.alias({x.size(0), x.numel() / x.size(0)});
  return nn::embedding(flat, rows).alias(x.shape().with(0, rows.size(0)));
}

}  // namespace

EncoderDecoder::State EncoderDecoder::start(const Tensor& encoded, int64_t copies) {
  State state;
  for (const DecoderLayer& layer : decoder_layers_) state.layers.push_back(layer.start(encoded));
  if (memory_) state.memory = memory_->initial(encoded.size(0) * copies);
  return state;
}

Tensor EncoderDecoder::step(State& state, const Tensor& ids) {
  const int64_t rows = ids.size(0);
  Tensor x = embed(ids.alias({rows, 1}), state.length++), m;
  if (memory_) {
    state.memory = memory_->step(state.memory, nn::reshape(x, {rows, options_.d_model}));
    m = nn::reshape(state.memory, {rows, 1, options_.rm_slots * options_.d_model});
  }
  for (size_t i = 0; i < decoder_layers_.size(); ++i)
    x = decoder_layers_[i].step(x, state.layers[i], m);
  x = decoder_norm_(x);
  if (options_.memory == MemoryKind::rm) x = nn::concat({x, m}, 2);
  return nn::reshape(logit_(x), {rows, options_.vocabulary});
}

void EncoderDecoder::reorder(State& state, const std::vector<int64_t>& rows) {
  const Device device = state.layers.front().keys.device();
  const Tensor index = Tensor::of(rows, {static_cast<int64_t>(rows.size())}).to(device);
  for (DecoderLayer::Cache& cache : state.layers) {
    cache.keys = rows_of(cache.keys, index);
    cache.values = rows_of(cache.values, index);
  }
  if (state.memory.defined()) state.memory = rows_of(state.memory, index);
}

Tensor EncoderDecoder::padding_of(const Tensor& ids) {
  const std::vector<int64_t> values = ids.values<int64_t>();
  std::vector<uint8_t> mask(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    mask[i] = values[i] == 0 && i % static_cast<size_t>(ids.size(1)) != 0;
  return nn::cast(Tensor::of(mask, ids.shape()), DType::boolean).to(ids.device());
}

void EncoderDecoder::fields(nn::Fields& f) {
  f("att_embed.0", att_embed_);
  f("att_embed.2", att_dropout_);
  f("model.encoder.layers", encoder_layers_);
  f("model.encoder.norm", encoder_norm_);
  f("model.decoder.layers", decoder_layers_);
  f("model.decoder.norm", decoder_norm_);
  f("model.tgt_embed.0.lut", lut_);
  f.buffer("model.tgt_embed.1.pe", positions_);
  f("model.tgt_embed.1.dropout", position_dropout_);
  if (memory_) f("model.rm", *memory_);
  f("logit", logit_);
}

}  // namespace pinion::report
