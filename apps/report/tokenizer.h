// SPDX-License-Identifier: Apache-2.0
// Tokenizer: words of cleaned reports and their numbers. 0 begins, ends and pads a report; the
// words count from 1 in the order of their bytes, "<unk>" among them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pinion::report {

class Tokenizer {
 public:
  static constexpr int64_t kEnd = 0;  // also begins and pads
  static constexpr const char* kUnknown = "<unk>";

  // The words that occur at least `threshold` times in the cleaned reports.
  Tokenizer(std::span<const std::string> cleaned_reports, int64_t threshold);
  // A list of words in the order of their numbers, as words() gives it and checkpoints keep it.
  // Throws Error (data) when it is not sorted, has a word twice, or lacks "<unk>".
  explicit Tokenizer(std::vector<std::string> words);

  const std::vector<std::string>& words() const { return words_; }
  int64_t vocabulary() const { return static_cast<int64_t>(words_.size()) + 1; }  // with 0

  int64_t id_of(std::string_view word) const;    // of an unknown word that of "<unk>"
  const std::string& word_of(int64_t id) const;  // 1 … vocabulary() - 1
  // 0, the words, 0; then cut to max_length, so that a long report has no end.
  std::vector<int64_t> encode(std::string_view cleaned_report, int64_t max_length) const;
  // The words up to the first 0, with spaces between them.
  std::string decode(std::span<const int64_t> ids) const;

 private:
  void index();

  std::vector<std::string> words_;
  std::map<std::string, int64_t, std::less<>> ids_;
  int64_t unknown_ = 0;
};

}  // namespace pinion::report
