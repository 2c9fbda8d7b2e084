// SPDX-License-Identifier: Apache-2.0
// Compares reports of paired studies, and peaks of attention with boxes.
#include "pinion/apps/report/looking.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "pinion/apps/report/attention_picture.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"

namespace pinion::report {

Flips flips_of(const std::vector<std::string>& ids, const std::vector<Pair>& pairs) {
  std::map<std::string, size_t> by_id;
  for (size_t i = 0; i < ids.size(); ++i) by_id[ids[i]] = i;
  Findings known;  // not 0: attributes that these reports speak of
  std::fill_n(known.values.begin(), kAlwaysSaid, 1);
  for (const Pair& pair : pairs) {
    const Findings is = findings_in(pair.references.front());
    for (size_t f = 0; f < kAttributes; ++f) known.values[f] |= is.values[f];
  }
  Flips out;
  for (const auto& [id, first] : by_id) {
    const auto second = by_id.find(id + "-pair");
    if (second == by_id.end()) continue;
    const auto said = [&](size_t i) { return findings_in(pairs[i].hypothesis).values; };
    const auto true_of = [&](size_t i) { return findings_in(pairs[i].references.front()).values; };
    const auto a = said(first), b = said(second->second);
    const auto true_a = true_of(first), true_b = true_of(second->second);
    for (size_t f = 0; f < kAttributes; ++f)
      if (true_a[f] != true_b[f])
        ++out.findings, out.flipped += a[f] == true_a[f] && b[f] == true_b[f];
      else if (known.values[f] != 0)
        ++out.others, out.kept += a[f] == b[f];
  }
  return out;
}

Boxes load_boxes(const std::string& path) {
  constexpr int64_t kMaxBytes = int64_t{1} << 30;
  if (!exists(path)) return {};
  const nlohmann::json json = load_json(path, kMaxBytes, ErrorKind::data);
  Boxes out;
  try {
    for (const auto& [id, facts] : json.items())
      for (const nlohmann::json& entry : facts.at("boxes")) {
        const std::string name = entry.at("finding");
        const auto& table = attribute_table();
        const auto* attribute = std::find_if(table.begin(), table.end(),
                                             [&](const auto& info) { return name == info.name; });
        const std::array<double, 4> box = entry.at("box");
        if (attribute != table.end())
          out[id].push_back({static_cast<Attribute>(attribute - table.begin()),
                             entry.at("view").get<int>(), box[0], box[1], box[2], box[3]});
      }
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::data, {path, ": expected the findings that make_cxr writes, got ", e.what()});
  }
  return out;
}

namespace {

// Whether a place of a view's grid overlaps a box of the finding.
bool lies_in(std::span<const FindingBox> boxes, Attribute finding, int64_t place, int64_t grid) {
  const int64_t in_view = place % (grid * grid);
  const double side = 1.0 / static_cast<double>(grid);
  const double top = static_cast<double>(in_view / grid) * side;
  const double left = static_cast<double>(in_view % grid) * side;
  return std::any_of(boxes.begin(), boxes.end(), [&](const FindingBox& box) {
    return box.attribute == finding && box.view == place / (grid * grid) &&
           box.left < left + side && left < box.right && box.top < top + side && top < box.bottom;
  });
}

// The words of a sentence that the attribute's normal sentences lack, in any style.
bool decides(const std::string& word, Attribute finding) {
  if (word == ".") return false;
  const auto& normal = attribute_table()[static_cast<size_t>(finding)].values[0].sentences;
  return std::none_of(normal.begin(), normal.end(), [&](const char* sentence) {
    return (std::string(" ") + sentence + " ").find(" " + word + " ") != std::string::npos;
  });
}

}  // namespace

void Pointing::add(std::span<const FindingBox> boxes, const std::string& truth,
                   const std::vector<std::string>& words,
                   const std::vector<std::vector<double>>& attention, int64_t views) {
  if (words.empty() || boxes.empty()) return;
  const auto places = static_cast<int64_t>(attention[0].size());
  const auto grid =
      static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(places / views))));
  PINION_CHECK(grid * grid * views == places, "pointing game: expected a square of places for ",
               views, " views, got ", places);
  const Findings is = findings_in(truth);
  size_t begin = 0;
  for (const Attended& sentence : by_sentence(words, attention)) {
    const size_t end =
        begin + 1 +
        static_cast<size_t>(std::count(sentence.text.begin(), sentence.text.end(), ' '));
    const Findings said = findings_in(sentence.text);
    for (size_t a = 0; a < kAttributes; ++a) {
      const auto finding = static_cast<Attribute>(a);
      const bool shown = std::any_of(boxes.begin(), boxes.end(),
                                     [&](const auto& box) { return box.attribute == finding; });
      if (said[finding] == 0 || said[finding] != is[finding] || !shown) continue;
      std::vector<double> sum(static_cast<size_t>(places));
      for (size_t t = begin; t < end; ++t)
        if (decides(words[t], finding))
          std::transform(sum.begin(), sum.end(), attention[t].begin(), sum.begin(), std::plus());
      const auto peak = std::max_element(sum.begin(), sum.end()) - sum.begin();
      int64_t possible = 0;
      for (int64_t place = 0; place < places; ++place)
        possible += lies_in(boxes, finding, place, grid);
      ++findings;
      hits += lies_in(boxes, finding, peak, grid);
      chance += static_cast<double>(possible) / static_cast<double>(places);
    }
    begin = end;
  }
}

}  // namespace pinion::report
