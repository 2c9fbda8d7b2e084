// SPDX-License-Identifier: Apache-2.0
// TableReader: the columns of a CSV file, with a header or without, and its rows as numbers and
// labels, every cell checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/apps/toy/csv.h"
#include "pinion/apps/toy/table.h"

namespace pinion::toy {

inline constexpr size_t kShownValue = 40;  // bytes of a bad cell that an error shows

enum class Parsed : uint8_t { number, empty, not_finite, text };
// A decimal number, whatever the locale; nothing else may stand in the text.
Parsed parse_number(std::string_view text, double& value);

// Names for an error text: the first dozen of them, in quotes.
std::string listed(const std::vector<std::string>& names);

class TableReader {
 public:
  explicit TableReader(const TableOptions& options);  // reads the header

  bool named() const { return named_; }
  size_t columns() const { return columns_; }
  const std::vector<std::string>& names() const { return names_; }  // of all columns
  // Where a column is, by its name in the header, else by its number; Error (usage) opens with
  // `flag`.
  size_t require_column(const char* flag, const std::string& text) const;
  std::optional<size_t> find_name(const std::string& name) const;  // in the header
  // The columns that are neither `label` nor ignored by the options.
  std::vector<size_t> feature_columns(std::optional<size_t> label) const;

  // Reads all rows: the numbers of columns `features` into table.values, and for each row
  // on_label(text) of column `label` where there is one.
  template <class F>
  void read(const std::vector<size_t>& features, std::optional<size_t> label, Table& table,
            F&& on_label) {
    begin_rows(features.size(), table);
    for (; more_; more_ = csv_.next()) {
      read_numbers(features, table);
      if (label) on_label(label_text(*label));
    }
    check_rows(table);
  }
  // An error about the label of the row that is being read.
  [[noreturn]] void fail_label(size_t column, std::initializer_list<Part> what) const;

 private:
  bool first_is_header() const;
  int64_t counted_features() const;
  void read_counts_line(int64_t features);
  void check_header() const;
  std::vector<std::string> cell_texts() const;
  std::optional<size_t> find_column(const std::string& text, size_t columns) const;
  void begin_rows(size_t features, Table& table) const;
  void read_numbers(const std::vector<size_t>& features, Table& table);
  std::string_view label_text(size_t column) const;
  void check_rows(const Table& table) const;
  [[noreturn]] void fail_ragged() const;
  [[noreturn]] void fail_cell(Parsed p, size_t column) const;

  const TableOptions& options_;
  CsvReader csv_;
  bool more_;  // there is a current record, of data once the constructor is done
  bool named_ = false;
  size_t columns_ = 0;
  std::vector<std::string> names_;
  std::vector<std::string> class_names_;  // of labels 0, 1, …, where the file lists them
};

}  // namespace pinion::toy
