// SPDX-License-Identifier: Apache-2.0
// The encoder and decoder of R2Gen: visual features in, the scores of each next word out.
#pragma once

#include <optional>

#include "pinion/apps/report/relational_memory.h"

namespace pinion::report {

// What the decoder knows of the words before: nothing but attention, a relational memory that is
// set beside the last layer's result, or one that conditions the decoder's norms (R2Gen).
enum class MemoryKind : unsigned char { base, rm, rm_mcln };

struct TransformerOptions {
  int64_t vocabulary = 761;  // with number 0
  int64_t d_model = 512, d_ff = 512, d_vf = 2048;
  int64_t heads = 8, layers = 3;
  int64_t rm_slots = 3, rm_heads = 8;
  double dropout = 0.1;
  double drop_prob_lm = 0.5;  // of the embedded features
  MemoryKind memory = MemoryKind::rm_mcln;

  // What goes with the extractor nano: one layer of 64 features, without dropout. 32 is how many
  // words the plain synthetic reports have.
  static TransformerOptions nano(int64_t vocabulary = 32) {
    return {.vocabulary = vocabulary,
            .d_model = 64,
            .d_ff = 128,
            .d_vf = 48,
            .heads = 4,
            .layers = 1,
            .rm_slots = 2,
            .rm_heads = 4,
            .dropout = 0,
            .drop_prob_lm = 0};
  }
};

struct EncoderDecoder : nn::Module {
  explicit EncoderDecoder(const TransformerOptions& options);

  // features [B,P,d_vf] -> [B,P,C]
  Tensor encode(const Tensor& features);
  // ids i64 [B,T], the words before each; padding bool [B,T], true where there is no word, but for
  // the first column -> logits [B,T,V].
  Tensor decode(const Tensor& encoded, const Tensor& ids, const Tensor& padding);
  // The same of the last word alone, and without padding -> [B,V].
  Tensor decode_last(const Tensor& encoded, const Tensor& ids);
  Tensor operator()(const Tensor& features, const Tensor& ids, const Tensor& padding) {
    return decode(encode(features), ids, padding);
  }
  // What the last layer attends to in the image when it has read each word: ids i64 [B,T] without
  // padding -> f64 [B,T,P] on the CPU, the mean over heads; each row sums to 1.
  Tensor image_attention(const Tensor& encoded, const Tensor& ids);
  // Decoding word by word: what is known of the rows that are being written.
  struct State {
    std::vector<DecoderLayer::Cache> layers;
    Tensor memory;  // [R,S,C], or undefined
    int64_t length = 0;
  };
  // `copies` rows for each of the B reports, next to each other: R = B copies.
  State start(const Tensor& encoded, int64_t copies);
  // ids i64 [R], the word just written in each row -> logits [R,V] of the next.
  Tensor step(State& state, const Tensor& ids);
  // Afterwards row r goes on from what was row rows[r], of the same report.
  static void reorder(State& state, const std::vector<int64_t>& rows);
  // True for every number 0 but those of the first column: ids i64 [B,T] -> bool [B,T].
  static Tensor padding_of(const Tensor& ids);

  // i64 [B,T] -> [B,T,C]: words, and positions from `first`
  Tensor embed(const Tensor& ids, int64_t first = 0);
  Tensor remember(const Tensor& words) { return (*memory_)(words); }
  void fields(nn::Fields& f) override;

 private:
  std::vector<const Norm*> decoder_norms() const;  // three of each layer
  // [B,T,C], with the memory beside it where that is what the scores are made of
  Tensor decoded(const Tensor& encoded, const Tensor& ids, const Tensor& padding);

  TransformerOptions options_;
  nn::Linear att_embed_;
  nn::Dropout att_dropout_;
  std::vector<EncoderLayer> encoder_layers_;
  Norm encoder_norm_;
  std::vector<DecoderLayer> decoder_layers_;
  Norm decoder_norm_;
  nn::Embedding lut_;
  Tensor positions_;  // [1, 5000, C]
  nn::Dropout position_dropout_;
  std::optional<RelationalMemory> memory_;
  nn::Linear logit_;
};

}  // namespace pinion::report
