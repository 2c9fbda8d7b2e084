// SPDX-License-Identifier: Apache-2.0
// Expands Slurm's lists of hosts and of tasks per host.
#include "pinion/dist/node_list.h"

#include <algorithm>
#include <charconv>

#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::dist {

namespace {

constexpr size_t kMaxHosts = 65536;

class List {
 public:
  List(std::string_view text, std::string_view variable) : text_(text), variable_(variable) {}

  [[noreturn]] void wrong(std::string_view expected) const {
    fail(ErrorKind::config, {variable_, ": expected ", expected, ", got ", quoted(text_)});
  }

  // Cuts at commas that stand outside of brackets.
  std::vector<std::string_view> split(std::string_view text) const {
    std::vector<std::string_view> parts;
    int depth = 0;
    size_t begin = 0;
    for (size_t i = 0; i <= text.size(); ++i) {
      if (i == text.size() || (text[i] == ',' && depth == 0)) {
        if (i == begin) wrong("no empty entry");
        parts.push_back(text.substr(begin, i - begin));
        begin = i + 1;
      } else if (text[i] == '[' || text[i] == ']') {
        depth += text[i] == '[' ? 1 : -1;
        if (depth < 0 || depth > 1) wrong("brackets that are not nested");
      }
    }
    if (depth != 0) wrong("a ] for every [");
    return parts;
  }

  int number(std::string_view digits) const {
    int value = 0;
    const char* const end = digits.data() + digits.size();
    const auto [at, error] = std::from_chars(digits.data(), end, value);
    if (digits.empty() || digits[0] == '-' || error != std::errc() || at != end)
      wrong("numbers of at most nine digits");
    return value;
  }

  // "1-2,07" is 1, 2, 07: a number keeps the width that its range begins with.
  std::vector<std::string> numbers(std::string_view ranges) const {
    std::vector<std::string> out;
    for (const std::string_view range : split(ranges)) {
      const size_t dash = range.find('-');
      const std::string_view low = range.substr(0, dash);
      const int first = number(low);
      const int last = dash == range.npos ? first : number(range.substr(dash + 1));
      if (last < first) wrong("ranges that go up");
      if (static_cast<size_t>(last - first) >= kMaxHosts) wrong("at most 65536 hosts");
      for (int n = first; n <= last; ++n) {
        std::string digits = std::to_string(n);
        if (digits.size() < low.size()) digits.insert(0, low.size() - digits.size(), '0');
        out.push_back(std::move(digits));
      }
    }
    return out;
  }

  std::vector<std::string> names(std::string_view pattern) const {
    std::vector<std::string> out{""};
    while (!pattern.empty()) {
      const size_t open = pattern.find('[');
      for (std::string& name : out) name += pattern.substr(0, open);
      if (open == pattern.npos) break;
      const size_t close = pattern.find(']', open);  // split() has seen that it is there
      const auto middles = numbers(pattern.substr(open + 1, close - open - 1));
      if (out.size() * middles.size() > kMaxHosts) wrong("at most 65536 hosts");
      std::vector<std::string> longer;
      for (const std::string& name : out)
        for (const std::string& middle : middles) longer.push_back(name + middle);
      out = std::move(longer);
      pattern.remove_prefix(close + 1);
    }
    return out;
  }

 private:
  std::string_view text_, variable_;
};

}  // namespace

std::vector<std::string> expand_node_list(std::string_view list, std::string_view variable) {
  const List reader(list, variable);
  std::vector<std::string> hosts;
  for (const std::string_view pattern : reader.split(list)) {
    const auto names = reader.names(pattern);
    if (hosts.size() + names.size() > kMaxHosts) reader.wrong("at most 65536 hosts");
    hosts.insert(hosts.end(), names.begin(), names.end());
  }
  return hosts;
}

std::vector<int> expand_counts(std::string_view list, std::string_view variable) {
  const List reader(list, variable);
  std::vector<int> counts;
  for (const std::string_view part : reader.split(list)) {
    const size_t open = part.find("(x");
    int times = 1;
    if (open != part.npos) {
      if (!part.ends_with(')')) reader.wrong("counts such as 2(x3),1");
      times = reader.number(part.substr(open + 2, part.size() - open - 3));
    }
    if (counts.size() + static_cast<size_t>(times) > kMaxHosts) reader.wrong("at most 65536 hosts");
    counts.insert(counts.end(), static_cast<size_t>(times), reader.number(part.substr(0, open)));
  }
  return counts;
}

}  // namespace pinion::dist
