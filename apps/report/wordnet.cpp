// SPDX-License-Identifier: Apache-2.0
// Two formats of lines, and the suffixes that English words lose.
#include "pinion/apps/report/wordnet.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "pinion/kernels/check.h"
#include "pinion/runtime/fs.h"

namespace pinion::report {

namespace {

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr std::array<const char*, 4> kParts = {"noun", "verb", "adj", "adv"};

// {"ies", "y"}: "biopsies" may be a form of "biopsy".
struct Ending {
  std::string_view form, base;
};
const std::vector<Ending>& endings_of(size_t part) {
  static const std::array<std::vector<Ending>, 4> kEndings = {
      {{{"s", ""},
        {"ses", "s"},
        {"xes", "x"},
        {"zes", "z"},
        {"ches", "ch"},
        {"shes", "sh"},
        {"men", "man"},
        {"ies", "y"}},
       {{"s", ""},
        {"ies", "y"},
        {"es", "e"},
        {"es", ""},
        {"ed", "e"},
        {"ed", ""},
        {"ing", "e"},
        {"ing", ""}},
       {{"er", ""}, {"est", ""}, {"er", "e"}, {"est", "e"}},
       {}}};
  return kEndings[part];
}

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < line.size();) {
    const size_t end = std::min(line.find(' ', at), line.size());
    if (end > at) out.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

template <class F>
void each_line(const std::string& path, F&& f) {
  const std::string text = read_file(path, kMaxFileBytes);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at && text[at] != ' ') f(std::string_view(text).substr(at, end - at));  // no licence
    at = end + 1;
  }
}

uint32_t number_of(std::string_view text, const std::string& path) {
  uint32_t value = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  PINION_REQUIRE(data, result.ec == std::errc() && result.ptr == end && value < (1U << 30), path,
                 ": expected a number, got ", text.substr(0, 40));
  return value;
}

}  // namespace

WordNet::WordNet(const std::string& folder) {
  for (size_t part = 0; part < kParts.size(); ++part) {
    const std::string index = folder + "/index." + kParts[part];
    // "place v 16 6 ! @ ~ * $ + 16 11 01575577 …": lemma, part, synsets, pointers, their marks, two
    // counts, and where the synsets stand in the data file, which is their number.
    each_line(index, [&](std::string_view line) {
      const auto fields = fields_of(line);
      const size_t count = fields.size() > 3 ? number_of(fields[2], index) : 0;
      PINION_REQUIRE(data, count > 0 && count + 6 <= fields.size(), index,
                     ": expected a lemma with its synsets, got ", line.substr(0, 60));
      auto& synsets = parts_[part].synsets[std::string(fields[0])];
      for (const std::string_view field :
           std::vector(fields.end() - static_cast<ptrdiff_t>(count), fields.end()))
        synsets.push_back(number_of(field, index) * 4 + static_cast<uint32_t>(part));
    });
    each_line(folder + "/" + kParts[part] + ".exc", [&](std::string_view line) {  // "feet foot"
      const auto fields = fields_of(line);
      auto& bases = parts_[part].bases[std::string(fields[0])];
      bases.insert(bases.end(), fields.begin() + 1, fields.end());
    });
  }
}

const WordNet* WordNet::installed() {
  static const std::unique_ptr<const WordNet> found = [] {
    const char* given = std::getenv("PINION_WORDNET");
    const std::string folder = given ? given : "/usr/share/wordnet";
    const bool there = given || exists(folder + "/index.noun");
    return there ? std::make_unique<const WordNet>(folder) : nullptr;
  }();
  return found.get();
}

std::vector<uint32_t> WordNet::synsets(const std::string& word) const {
  std::vector<uint32_t> out;
  for (size_t part = 0; part < parts_.size(); ++part) {
    const auto take = [&](const std::string& lemma) {
      const auto found = parts_[part].synsets.find(lemma);
      if (found != parts_[part].synsets.end())
        out.insert(out.end(), found->second.begin(), found->second.end());
    };
    take(word);
    const auto irregular = parts_[part].bases.find(word);
    if (irregular != parts_[part].bases.end())
      for (const std::string& base : irregular->second) take(base);
    for (const Ending& ending : endings_of(part))
      if (word.size() > ending.form.size() && word.ends_with(ending.form))
        take(word.substr(0, word.size() - ending.form.size()) + std::string(ending.base));
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace pinion::report
