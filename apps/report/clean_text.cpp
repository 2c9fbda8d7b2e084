// SPDX-License-Identifier: Apache-2.0
// The rules in the order in which they must be applied.
#include "pinion/apps/report/clean_text.h"

#include <algorithm>

namespace pinion::report {

namespace {

constexpr std::string_view kSpace = " \t\n\r\v\f";

// One pass from left to right; what was put in is not looked at again.
void replace(std::string& text, std::string_view from, std::string_view to, int times = 1) {
  while (times-- > 0) {
    std::string out;
    size_t at = 0;
    for (size_t hit; (hit = text.find(from, at)) != std::string::npos; at = hit + from.size())
      out.append(text, at, hit - at).append(to);
    text = std::move(out.append(text, at));
  }
}

std::string_view stripped(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

// The rules' class of characters has ":-[" in it, which is the whole range from ':' to '['.
bool is_dropped(char c) {
  constexpr std::string_view kClass = ".,?;*!%^&_+()]{}";
  return kClass.find(c) != std::string_view::npos || (c >= ':' && c <= '[');
}

std::string clean_sentence(std::string_view sentence) {
  std::string text;
  for (const char c : sentence)
    if (c != '"' && c != '/' && c != '\\' && c != '\'') text += c;
  text = lower(stripped(text));
  std::erase_if(text, is_dropped);
  return text;
}

}  // namespace

std::string clean_report(std::string_view report, DatasetName dataset) {
  std::string text(report);
  if (dataset == DatasetName::mimic_cxr) {
    replace(text, "\n", " ");
    replace(text, "__", "_", 7);
    replace(text, "  ", " ", 5);
  }
  replace(text, "..", ".", dataset == DatasetName::mimic_cxr ? 8 : 3);
  // Numbers of lists: at the start of the report, after a sentence, within one.
  replace(text, "1. ", "");
  for (const char* number : {". 2. ", ". 3. ", ". 4. ", ". 5. "}) replace(text, number, ". ");
  for (const char* number : {" 2. ", " 3. ", " 4. ", " 5. "}) replace(text, number, ". ");
  text = lower(stripped(text));

  std::string out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(". ", at), text.size());
    if (at > 0) out += " . ";
    out += clean_sentence(std::string_view(text).substr(at, end - at));  // empty ones stay
    at = end == text.size() ? end + 1 : end + 2;
  }
  return out + " .";
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t at = text.find_first_not_of(kSpace); at != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    words.push_back(text.substr(at, end - at));
    at = text.find_first_not_of(kSpace, end);
  }
  return words;
}

}  // namespace pinion::report
