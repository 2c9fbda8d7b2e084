// SPDX-License-Identifier: Apache-2.0
// Finds the header and the columns of a table, and turns its cells into numbers.
#include "pinion/apps/toy/table_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_set>

#include "pinion/accel/track/text.h"
#include "pinion/runtime/log.h"

namespace pinion::toy {

namespace {

bool is_number(std::string_view text) {
  double value;
  const Parsed p = parse_number(text, value);
  return p == Parsed::number || p == Parsed::not_finite;
}

bool parse_integer(std::string_view text, int64_t& value) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && stop == text.data() + text.size();
}

}  // namespace

Parsed parse_number(std::string_view text, double& value) {
  if (text.empty()) return Parsed::empty;
  const char* begin = text.data();
  const char* const end = begin + text.size();
  if (*begin == '+' && text.size() > 1 && begin[1] != '-') ++begin;
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (stop != end) return Parsed::text;
  if (error == std::errc::result_out_of_range) {
    // Too small for a double is zero; too large is not a number that can be used.
    const size_t point = text.find('.'), digit = text.find_first_of("123456789");
    const bool tiny = text.find("e-") != text.npos || text.find("E-") != text.npos || point < digit;
    if (!tiny) return Parsed::not_finite;
    value = 0;
    return Parsed::number;
  }
  if (error != std::errc()) return Parsed::text;
  return std::isfinite(value) ? Parsed::number : Parsed::not_finite;
}

std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kMost = 12;
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i)
    out += (i ? ", " : "") + quoted(names[i], kShownValue);
  if (names.size() > kMost) out += cat({", ... (", names.size(), " in all)"});
  return out;
}

TableReader::TableReader(const TableOptions& options)
    : options_(options), csv_(options.path), more_(csv_.next()) {
  if (!more_) return;
  columns_ = csv_.cells().size();
  if (const int64_t features = counted_features(); features > 0) {
    read_counts_line(features);
  } else if (first_is_header()) {
    check_header();
    named_ = true;
    names_ = cell_texts();
    more_ = csv_.next();
    return;
  }
  for (size_t c = 0; c < columns_; ++c) names_.push_back("column " + std::to_string(c));
}

// The data sets that come with scikit-learn begin with a line "rows,features,class 0,class 1,...".
// Returns the number of features when the first record is such a line, else 0.
int64_t TableReader::counted_features() const {
  const std::vector<Cell>& cells = csv_.cells();
  int64_t rows = 0, features = 0;
  if (options_.header != Header::detect || cells.size() < 4 ||
      !parse_integer(cells[0].text, rows) || !parse_integer(cells[1].text, features))
    return 0;
  for (size_t i = 2; i < cells.size(); ++i)
    if (cells[i].text.empty() || is_number(cells[i].text)) return 0;
  const bool fits = rows > 0 && features > 0 && static_cast<size_t>(features) + 1 != cells.size();
  return fits ? features : 0;
}

void TableReader::read_counts_line(int64_t features) {
  std::vector<std::string> classes = cell_texts();
  classes.erase(classes.begin(), classes.begin() + 2);
  more_ = csv_.next();
  // Otherwise it was a row like any other, and this one is of another length, which is an error.
  if (!more_ || csv_.cells().size() != static_cast<size_t>(features) + 1) return;
  columns_ = csv_.cells().size();
  class_names_ = std::move(classes);
}

// A first record is a header when no feature in it is a number, or when it holds the name of the
// label. A record of mixed cells is data: an error then shows which cell is in the way.
bool TableReader::first_is_header() const {
  if (options_.header != Header::detect) return options_.header == Header::yes;
  const std::vector<Cell>& cells = csv_.cells();
  const auto label = find_column(options_.label, cells.size());
  size_t numbers = 0, texts = 0;
  for (size_t c = 0; c < cells.size(); ++c) {
    if (!label && !options_.label.empty() && cells[c].text == options_.label) return true;
    if (label && c == *label) continue;
    (is_number(cells[c].text) ? numbers : texts) += 1;
  }
  return numbers == 0 && texts > 0;
}

void TableReader::check_header() const {
  std::unordered_set<std::string_view> seen;
  for (const Cell& cell : csv_.cells()) {
    PINION_REQUIRE(data, accel::is_utf8(cell.text), csv_.where(cell),
                   ": expected UTF-8 text in the header, got ", quoted(cell.text, kShownValue));
    PINION_REQUIRE(data, seen.insert(cell.text).second, csv_.where(cell),
                   ": expected a different name for every column, got ",
                   quoted(cell.text, kShownValue), " twice");
  }
}

std::vector<std::string> TableReader::cell_texts() const {
  std::vector<std::string> out;
  for (const Cell& cell : csv_.cells()) out.emplace_back(cell.text);
  return out;
}

std::optional<size_t> TableReader::find_name(const std::string& name) const {
  if (!named_) return std::nullopt;
  const auto at = std::find(names_.begin(), names_.end(), name);
  if (at == names_.end()) return std::nullopt;
  return static_cast<size_t>(at - names_.begin());
}

std::optional<size_t> TableReader::find_column(const std::string& text, size_t columns) const {
  if (const auto at = find_name(text)) return at;
  int64_t number = 0;
  const auto count = static_cast<int64_t>(columns);
  if (!parse_integer(text, number) || number < -count || number >= count) return std::nullopt;
  return static_cast<size_t>(number < 0 ? number + count : number);
}

size_t TableReader::require_column(const char* flag, const std::string& text) const {
  if (const auto at = find_column(text, columns_)) return *at;
  if (named_)
    fail(ErrorKind::usage, {flag, ": expected a column of ", csv_.path(), " (", listed(names_),
                            ") or its number, got ", quoted(text)});
  fail(ErrorKind::usage,
       {flag, ": expected a number from ", -static_cast<int64_t>(columns_), " to ", columns_ - 1,
        ", as ", csv_.path(), " has ", columns_, " columns and no header, got ", quoted(text)});
}

std::vector<size_t> TableReader::feature_columns(std::optional<size_t> label) const {
  std::vector<bool> used(columns_, true);
  for (const std::string& name : options_.ignore) used[require_column("--ignore", name)] = false;
  if (label) used[*label] = false;
  std::vector<size_t> columns;
  for (size_t c = 0; c < used.size(); ++c)
    if (used[c]) columns.push_back(c);
  return columns;
}

// One allocation for most files: as many rows as the first record's length lets expect.
void TableReader::begin_rows(size_t features, Table& table) const {
  if (!more_) return;
  const auto bytes = static_cast<double>(csv_.file_bytes());
  const double rows = 1.1 * bytes / static_cast<double>(csv_.record_bytes() + 1) + 16;
  // A cell takes two bytes at least, so memory stays in proportion to the file.
  const double most = bytes / 2 + 16;
  table.values.reserve(static_cast<size_t>(std::min(rows * static_cast<double>(features), most)));
}

void TableReader::read_numbers(const std::vector<size_t>& features, Table& table) {
  const std::vector<Cell>& cells = csv_.cells();
  if (cells.size() != columns_) fail_ragged();
  const size_t at = table.values.size();
  table.values.resize(at + features.size());
  double* out = table.values.data() + at;
  for (const size_t column : features) {
    const Parsed p = parse_number(cells[column].text, *out++);
    if (p != Parsed::number) [[unlikely]]
      fail_cell(p, column);
  }
  ++table.rows;
}

// The label of the current row; where the file lists the classes, the name that its number stands
// for.
std::string_view TableReader::label_text(size_t column) const {
  const std::string_view text = csv_.cells()[column].text;
  if (text.empty()) fail_cell(Parsed::empty, column);
  int64_t number = -1;
  if (!class_names_.empty() && parse_integer(text, number) && number >= 0 &&
      number < static_cast<int64_t>(class_names_.size()))
    return class_names_[static_cast<size_t>(number)];
  if (!accel::is_utf8(text))
    fail_label(column, {"expected UTF-8 text, got ", quoted(text, kShownValue)});
  return text;
}

void TableReader::check_rows(const Table& table) const {
  if (table.rows > 0) return;
  fail(ErrorKind::data, {csv_.path(), ":1:1: expected rows of data, got ",
                         columns_ == 0 ? "an empty file" : "none"});
}

void TableReader::fail_label(size_t column, std::initializer_list<Part> what) const {
  fail(ErrorKind::data, {csv_.where(csv_.cells()[column]), ": column ",
                         quoted(names_[column], kShownValue), ": ", cat(what)});
}

void TableReader::fail_ragged() const {
  const size_t got = csv_.cells().size();
  const Cell& at = got > columns_ ? csv_.cells()[columns_] : csv_.cells().back();
  fail(ErrorKind::data, {csv_.where(at), ": expected ", columns_, " cells as in the ",
                         named_ ? "header" : "first row", ", got ", got});
}

void TableReader::fail_cell(Parsed p, size_t column) const {
  const Cell& cell = csv_.cells()[column];
  const std::string at = cat({csv_.where(cell), ": column ", quoted(names_[column], kShownValue)});
  if (p == Parsed::empty) fail(ErrorKind::data, {at, ": expected a value, got a missing cell"});
  if (p == Parsed::not_finite)
    fail(ErrorKind::data, {at, ": expected a finite number, got ", quoted(cell.text, kShownValue)});
  fail(ErrorKind::data, {at, ": expected a number, got the text ", quoted(cell.text, kShownValue),
                         " (--ignore leaves a column out)"});
}

}  // namespace pinion::toy
