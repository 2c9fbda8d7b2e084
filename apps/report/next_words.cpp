// SPDX-License-Identifier: Apache-2.0
// Steps the decoder, with its cache or without.
#include "pinion/apps/report/next_words.h"

#include <algorithm>
#include <cmath>

namespace pinion::report {

NextWords::NextWords(EncoderDecoder& model, const Tensor& encoded, int64_t copies, bool cached)
    : model_(&model), rows_(static_cast<size_t>(encoded.size(0) * copies)) {
  if (cached) {
    state_ = model.start(encoded, copies);
    return;
  }
  const int64_t reports = encoded.size(0), rows = reports * copies;
  std::vector<int64_t> of_row;
  for (int64_t r = 0; r < rows; ++r) of_row.push_back(r / copies);
  const Tensor index = Tensor::of(of_row, {rows}).to(encoded.device());
  encoded_ = nn::embedding(encoded.alias({reports, encoded.numel() / reports}), index)
                 .alias(encoded.shape().with(0, rows));
  texts_.resize(rows_);
}

void NextWords::read(const std::vector<int64_t>& words) {
  const auto rows = static_cast<int64_t>(rows_);
  Tensor logits;
  if (texts_.empty()) {
    const Device device = state_.layers.front().image_keys.device();
    logits = model_->step(state_, Tensor::of(words, {rows}).to(device));
  } else {
    std::vector<int64_t> all;
    for (size_t r = 0; r < rows_; ++r) {
      texts_[r].push_back(words[r]);
      all.insert(all.end(), texts_[r].begin(), texts_[r].end());
    }
    const auto length = static_cast<int64_t>(texts_[0].size());
    const Tensor ids = Tensor::of(all, {rows, length}).to(encoded_.device());
    logits = model_->decode_last(encoded_, ids);
  }
  const std::vector<float> values = nn::cast(logits, DType::f32).values<float>();
  logp_.assign(values.begin(), values.end());
  vocabulary_ = logp_.size() / rows_;
  for (size_t r = 0; r < rows_; ++r)
    normalise(std::span(logp_).subspan(r * vocabulary_, vocabulary_));
}

void NextWords::reorder(const std::vector<int64_t>& rows) {
  if (texts_.empty()) return EncoderDecoder::reorder(state_, rows);
  const std::vector<std::vector<int64_t>> before = texts_;
  for (size_t r = 0; r < rows_; ++r) texts_[r] = before[static_cast<size_t>(rows[r])];
}

void normalise(std::span<double> scores) {
  const double most = *std::max_element(scores.begin(), scores.end());
  PINION_REQUIRE(non_finite, std::isfinite(most), "report: expected finite scores of words, got ",
                 most);
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - most);
  for (double& score : scores) score -= most + std::log(sum);
}

}  // namespace pinion::report
