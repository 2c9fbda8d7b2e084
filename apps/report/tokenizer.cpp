// SPDX-License-Identifier: Apache-2.0
// Counts words, sorts them, looks them up.
#include "pinion/apps/report/tokenizer.h"

#include <algorithm>

#include "pinion/apps/report/clean_text.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

Tokenizer::Tokenizer(std::span<const std::string> cleaned_reports, int64_t threshold) {
  PINION_CHECK(threshold >= 1, "tokenizer: expected a threshold of at least 1, got ", threshold);
  std::map<std::string_view, int64_t> counts;
  for (const std::string& report : cleaned_reports)
    for (const std::string_view word : words_of(report)) ++counts[word];
  counts[kUnknown] = threshold;
  for (const auto& [word, count] : counts)
    if (count >= threshold) words_.emplace_back(word);
  index();
}

Tokenizer::Tokenizer(std::vector<std::string> words) : words_(std::move(words)) {
  for (size_t i = 1; i < words_.size(); ++i)
    PINION_REQUIRE(data, words_[i - 1] < words_[i], "vocabulary: expected sorted words, got ",
                   quoted(words_[i - 1]), " before ", quoted(words_[i]));
  index();
}

void Tokenizer::index() {
  for (size_t i = 0; i < words_.size(); ++i) ids_.emplace(words_[i], static_cast<int64_t>(i) + 1);
  const auto unknown = ids_.find(kUnknown);
  PINION_REQUIRE(data, unknown != ids_.end(), "vocabulary: expected the word ", kUnknown, " among ",
                 words_.size(), ", got none");
  unknown_ = unknown->second;
}

int64_t Tokenizer::id_of(std::string_view word) const {
  const auto found = ids_.find(word);
  return found == ids_.end() ? unknown_ : found->second;
}

const std::string& Tokenizer::word_of(int64_t id) const {
  PINION_REQUIRE(data, id >= 1 && id < vocabulary(), "vocabulary: expected a number from 1 to ",
                 vocabulary() - 1, ", got ", id);
  return words_[static_cast<size_t>(id - 1)];
}

std::vector<int64_t> Tokenizer::encode(std::string_view cleaned_report, int64_t max_length) const {
  std::vector<int64_t> ids = {kEnd};
  for (const std::string_view word : words_of(cleaned_report)) ids.push_back(id_of(word));
  ids.push_back(kEnd);
  if (static_cast<int64_t>(ids.size()) > max_length) ids.resize(static_cast<size_t>(max_length));
  return ids;
}

std::string Tokenizer::decode(std::span<const int64_t> ids) const {
  std::string text;
  for (const int64_t id : ids) {
    if (id == kEnd) break;
    if (!text.empty()) text += ' ';
    text += word_of(id);
  }
  return text;
}

}  // namespace pinion::report
