// SPDX-License-Identifier: Apache-2.0
// Reads a whole table, to train on or to apply a model to.
#include <algorithm>
#include <numeric>
#include <optional>
#include <unordered_map>

#include "pinion/apps/toy/table_reader.h"
#include "pinion/runtime/log.h"

namespace pinion::toy {

namespace {

constexpr size_t kMaxClasses = 1000;  // more distinct labels than this are no classes
constexpr size_t kMaxColumns = 100'000;

// The classes of a table while it is read: ids are given in the order of appearance.
class LabelIds {
 public:
  // The id of a class, or nothing when there would be too many.
  std::optional<int64_t> add(std::string_view text) {
    if (!names_.empty() && text == last_) return last_id_;
    last_.assign(text);
    const auto [at, is_new] = ids_.try_emplace(last_, static_cast<int64_t>(names_.size()));
    if (is_new && names_.size() == kMaxClasses) return std::nullopt;
    if (is_new) names_.push_back(last_);
    return last_id_ = at->second;
  }

  // Sorts the classes, as numbers when all are (equal numbers are one class), and renumbers
  // `labels`.
  std::vector<std::string> finish(std::vector<int64_t>& labels) {
    std::vector<double> number(names_.size());
    bool numeric = true;
    for (size_t i = 0; i < names_.size(); ++i)
      numeric = numeric && parse_number(names_[i], number[i]) == Parsed::number;
    std::vector<size_t> order(names_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return numeric ? number[a] < number[b] : names_[a] < names_[b];
    });
    std::vector<std::string> classes;
    std::vector<int64_t> id_of(names_.size());
    for (size_t k = 0; k < order.size(); ++k) {
      const bool same = numeric && k > 0 && number[order[k]] == number[order[k - 1]];
      if (!same) classes.push_back(names_[order[k]]);
      id_of[order[k]] = static_cast<int64_t>(classes.size()) - 1;
    }
    for (int64_t& label : labels) label = id_of[static_cast<size_t>(label)];
    return classes;
  }

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, int64_t> ids_;
  std::string last_;
  int64_t last_id_ = 0;
};

// The class ids of a saved model: by name, else by value.
class KnownLabels {
 public:
  explicit KnownLabels(const std::vector<std::string>& classes) : classes_(classes) {
    for (size_t i = 0; i < classes.size(); ++i) ids_.emplace(classes[i], static_cast<int64_t>(i));
  }
  std::optional<int64_t> find(std::string_view text) const {
    if (const auto at = ids_.find(std::string(text)); at != ids_.end()) return at->second;
    double value, other;
    if (parse_number(text, value) != Parsed::number) return std::nullopt;
    for (size_t i = 0; i < classes_.size(); ++i)
      if (parse_number(classes_[i], other) == Parsed::number && other == value)
        return static_cast<int64_t>(i);
    return std::nullopt;
  }

 private:
  const std::vector<std::string>& classes_;
  std::unordered_map<std::string, int64_t> ids_;
};

// Where a table has the columns of a model.
struct Match {
  std::vector<size_t> features;
  std::optional<size_t> label;
  std::vector<std::string> unused;
};

Match match_by_name(const Preprocessing& facts, const TableOptions& options,
                    const TableReader& reader) {
  Match match;
  std::vector<bool> used(reader.columns());
  std::vector<std::string> missing;
  for (const std::string& name : facts.columns) {
    const auto at = reader.find_name(name);
    if (!at) {
      missing.push_back(name);
      continue;
    }
    match.features.push_back(*at);
    used[*at] = true;
  }
  match.label = options.label.empty() ? reader.find_name(facts.label)
                                      : reader.require_column("--label", options.label);
  if (match.label && used[*match.label]) match.label.reset();
  if (match.label) used[*match.label] = true;
  for (size_t c = 0; c < used.size(); ++c)
    if (!used[c]) match.unused.push_back(reader.names()[c]);
  if (missing.empty()) return match;
  const std::string others =
      match.unused.empty() ? "" : "; the model has no column called " + listed(match.unused);
  fail(ErrorKind::data, {options.path, ":1:1: expected the columns of the model, got none called ",
                         listed(missing), others});
}

Match match_by_position(const Preprocessing& facts, const TableOptions& options,
                        const TableReader& reader) {
  Match match;
  if (!options.label.empty()) match.label = reader.require_column("--label", options.label);
  match.features = reader.feature_columns(match.label);
  if (match.features.size() != facts.columns.size())
    fail(ErrorKind::data, {options.path, ":1:1: expected ", facts.columns.size(),
                           " columns of features for the model, got ", match.features.size(),
                           match.label ? " beside the label" : " (--label names a label column)"});
  return match;
}

}  // namespace

Table load_table(const TableOptions& options) {
  PINION_REQUIRE(usage, !options.label.empty(),
                 "--label: expected the column of the classes, by name or number, got none");
  TableReader reader(options);
  Table table;
  table.path = options.path;
  if (reader.columns() == 0) reader.read({}, std::nullopt, table, [](std::string_view) {});
  const size_t label = reader.require_column("--label", options.label);
  const std::vector<size_t> features = reader.feature_columns(label);
  PINION_REQUIRE(data, !features.empty() && features.size() <= kMaxColumns, options.path,
                 ":1:1: expected 1 to ", kMaxColumns, " columns of features beside the label, got ",
                 features.size());
  LabelIds ids;
  reader.read(features, label, table, [&](std::string_view text) {
    const auto id = ids.add(text);
    if (!id)
      reader.fail_label(label, {"expected classes, got more than ", kMaxClasses,
                                " different values (is this a quantity?)"});
    table.labels.push_back(*id);
  });
  table.classes = ids.finish(table.labels);
  table.named = reader.named();
  table.label_name = reader.names()[label];
  for (const size_t c : features) table.columns.push_back(reader.names()[c]);
  PINION_REQUIRE(data, table.classes.size() >= 2, options.path, ": column ",
                 quoted(table.label_name), ": expected at least two classes, got ",
                 quoted(table.classes[0], kShownValue), " in all ", table.rows, " rows");
  return table;
}

Table load_table_for(const Preprocessing& facts, const TableOptions& options,
                     std::vector<std::string>* unused) {
  TableReader reader(options);
  Table table;
  table.path = options.path;
  if (reader.columns() == 0) reader.read({}, std::nullopt, table, [](std::string_view) {});
  const Match match = facts.named && reader.named() ? match_by_name(facts, options, reader)
                                                    : match_by_position(facts, options, reader);
  if (unused) *unused = match.unused;
  const KnownLabels known(facts.classes);
  reader.read(match.features, match.label, table, [&](std::string_view text) {
    const auto id = known.find(text);
    if (!id)
      reader.fail_label(*match.label, {"expected a class of the model (", listed(facts.classes),
                                       "), got ", quoted(text, kShownValue)});
    table.labels.push_back(*id);
  });
  table.columns = facts.columns;
  table.named = facts.named;
  table.label_name = facts.label;
  table.classes = facts.classes;
  return table;
}

}  // namespace pinion::toy
