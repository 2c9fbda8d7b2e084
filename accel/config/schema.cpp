// SPDX-License-Identifier: Apache-2.0
// Looks keys up, and turns the text of a value into its one spelling.
#include "pinion/accel/config/schema.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "pinion/accel/track/text.h"
#include "pinion/kernels/check.h"

namespace pinion::accel {

namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

// Single-character edits that make one of the other, swaps of neighbours among them.
size_t edits(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        now[j] = std::min(now[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(now);
  }
  return last[b.size()];
}

std::string number_text(double value) {
  char text[64];
  const auto end = std::to_chars(std::begin(text), std::end(text), value).ptr;
  return {text, end};
}

// All of `text` as a number, with a sign that from_chars does not read.
template <class T>
bool parse_all(std::string_view text, T& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool parse_boolean(std::string_view text, bool& value) {
  const std::string word = lower(text);
  for (const char* yes : {"true", "yes", "y", "t", "on", "1"})
    if (word == yes) return value = true;
  for (const char* no : {"false", "no", "n", "f", "off", "0"})
    if (word == no) return value = false, true;
  return false;
}

CheckedValue check_number(const ConfigKey& key, std::string_view text) {
  const std::string range = cat({" from ", number_text(key.low), " to ", number_text(key.high)});
  if (key.type == KeyType::integer) {
    int64_t value = 0;
    const bool good = parse_all(text, value) && static_cast<double>(value) >= key.low &&
                      static_cast<double>(value) <= key.high;
    if (!good) return {.expected = "an integer" + range};
    return {.value = std::to_string(value)};
  }
  double value = 0;
  if (!parse_all(text, value) || !(value >= key.low && value <= key.high))
    return {.expected = "a number" + range};
  return {.value = number_text(value)};
}

// Lower case without hyphens: MS-AMP is msamp.
std::string folded(std::string_view text) {
  std::string out = lower(text);
  std::erase(out, '-');
  return out;
}

struct Choice {
  char mark;  // '~' noted, '!' refused, else ' '
  std::string_view value;
};

std::vector<Choice> choices_of(const ConfigKey& key) {
  std::vector<Choice> out;
  for (std::string_view rest = key.choices; !rest.empty();) {
    const size_t end = std::min(rest.find('|'), rest.size());
    const bool marked = rest[0] == '!' || rest[0] == '~';
    out.push_back({marked ? rest[0] : ' ', rest.substr(marked, end - marked)});
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out;
}

CheckedValue check_choice(const ConfigKey& key, std::string_view text) {
  std::string word = folded(text);
  const bool negative = word == "false" || word == "off" || word == "n";  // YAML's other words
  if (negative && folded(key.choices.substr(0, 2)) == "no") word = "no";
  std::string_view refused;
  for (const Choice& choice : choices_of(key)) {
    if (folded(choice.value) != word) continue;
    if (choice.mark == '!')
      refused = key.reason;
    else
      return {.value = std::string(choice.value),
              .note = std::string(choice.mark == '~' ? key.reason : "")};
  }
  const std::vector<std::string> offered = offered_choices(key);
  std::string expected = offered.size() == 1 ? "" : "one of ";
  for (size_t i = 0; i < offered.size(); ++i)
    expected += (i == 0 ? "" : i + 1 == offered.size() ? " or " : ", ") + offered[i];
  return {.expected = expected,
          .hint = refused.empty() ? suggestion(text, offered) : cat({": ", refused})};
}

// "all", or numbers or UUIDs of GPUs with commas, each once.
CheckedValue check_gpu_ids(std::string_view text) {
  CheckedValue wrong{.expected = "all, or the numbers of GPUs with commas, each once"};
  if (lower(text) == "all") return {.value = "all"};
  std::set<std::string> seen;
  std::string joined;
  while (true) {
    const size_t end = std::min(text.find(','), text.size());
    std::string_view id = text.substr(0, end);
    while (id.starts_with(' ')) id.remove_prefix(1);
    while (id.ends_with(' ')) id.remove_suffix(1);
    int64_t number = 0;
    const bool is_number = parse_all(id, number) && number >= 0 && number < 4096;
    const bool is_uuid = (id.starts_with("GPU-") || id.starts_with("MIG-")) &&
                         id.find_first_not_of("0123456789abcdefABCDEFGPUMI-/") == id.npos;
    if (!(is_number || is_uuid) || !seen.insert(std::string(id)).second) return wrong;
    joined += (joined.empty() ? "" : ",") + std::string(id);
    if (end == text.size()) return {.value = joined};
    text.remove_prefix(end + 1);
  }
}

CheckedValue check_type(const ConfigKey& key, std::string_view text) {
  switch (key.type) {
    case KeyType::boolean: {
      bool value = false;
      if (!parse_boolean(text, value)) return {.expected = "true or false"};
      return {.value = value ? "true" : "false"};
    }
    case KeyType::integer:
    case KeyType::real: return check_number(key, text);
    case KeyType::choice: return check_choice(key, text);
    default: break;
  }
  if (key.name == "gpu_ids") return check_gpu_ids(text);
  const auto is_control = [](unsigned char c) { return c < ' '; };
  if (!is_utf8(text) || std::ranges::any_of(text, is_control))
    return {.expected = "UTF-8 text on one line"};
  return {.value = std::string(text)};
}

}  // namespace

std::string_view ConfigKey::section() const {
  const size_t dot = name.find('.');
  return dot == name.npos ? std::string_view() : name.substr(0, dot);
}

std::string_view ConfigKey::leaf() const {
  const size_t dot = name.find('.');
  return dot == name.npos ? name : name.substr(dot + 1);
}

bool ConfigKey::applies_to(std::string_view distributed_type) const {
  if (section() == "deepspeed_config") return distributed_type == "DEEPSPEED";
  if (section() == "fsdp_config") return distributed_type == "FSDP";
  return true;
}

std::vector<std::string> offered_choices(const ConfigKey& key) {
  std::vector<std::string> out;
  for (const Choice& choice : choices_of(key))
    if (choice.mark != '!') out.emplace_back(choice.value);
  return out;
}

const ConfigKey* find_config_key(std::string_view name) {
  for (const ConfigKey& key : config_keys())
    if (key.name == name || key.leaf() == name) return &key;
  return nullptr;
}

CheckedValue check_value(const ConfigKey& key, std::string_view text) {
  CheckedValue checked = check_type(key, text);
  if (!checked.expected.empty() || checked.value == key.standard) return checked;
  if (key.use == KeyUse::noted) checked.note = key.reason;
  if (key.use == KeyUse::refused) {
    checked.expected = key.standard.empty() ? "no value" : key.standard;
    checked.hint = cat({": ", key.reason});
  }
  return checked;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& known) {
  const std::string word = lower(name);
  std::string best;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;  // as far as a slip of the hand goes
  for (const std::string& candidate : known) {
    const size_t distance = edits(word, lower(candidate));
    if (distance >= least) continue;
    least = distance;
    best = candidate;
  }
  return best.empty() ? "" : cat({"; did you mean ", best, "?"});
}

}  // namespace pinion::accel
