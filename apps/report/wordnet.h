// SPDX-License-Identifier: Apache-2.0
// Which words mean the same: WordNet 3.0 as Debian's package wordnet-base installs it.
//
// Sources: wndb(5WN) for the format of index files, morphy(7WN) for the base forms of words.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace pinion::report {

class WordNet {
 public:
  // Reads index.* and *.exc of a folder. Throws Error: missing for a file that is not there, data
  // for one that is something else.
  explicit WordNet(const std::string& folder);
  // That of $PINION_WORDNET, or of /usr/share/wordnet; null where there is none. Read once.
  static const WordNet* installed();

  // The synsets of a word in small letters and of its base forms, in rising order.
  std::vector<uint32_t> synsets(const std::string& word) const;

 private:
  struct PartOfSpeech {
    std::unordered_map<std::string, std::vector<uint32_t>> synsets;   // of a lemma
    std::unordered_map<std::string, std::vector<std::string>> bases;  // of irregular forms
  };
  std::array<PartOfSpeech, 4> parts_;
};

}  // namespace pinion::report
