// SPDX-License-Identifier: Apache-2.0
// A user's own table: numbers and class labels from a CSV file, checked cell by cell; the held-out
// split; and the standardisation that training and prediction share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pinion/runtime/tensor.h"

namespace pinion::toy {

enum class Header : uint8_t { detect, yes, no };

struct TableOptions {
  std::string path{};
  std::string label{};                // a column's name or number from 0, negative from the end
  std::vector<std::string> ignore{};  // columns to leave out, named likewise
  Header header = Header::detect;
};

// What turns a row of a table into a row of features, and a class id into its name. It is saved
// beside the model.
struct Preprocessing {
  std::vector<std::string> columns;  // of the features, in their order
  bool named = false;                // the names come from a header, not from us
  std::string label;                 // the column of the labels; "" when there was none
  std::vector<std::string> classes;  // by class id
  std::vector<double> mean, std;     // per feature: a feature is (number - mean) / std
};

struct Table {
  std::string path;
  std::vector<std::string> columns;  // of the features
  bool named = false;
  std::string label_name;
  std::vector<std::string>
      classes;                  // by class id; numbers in their order, else in that of the text
  std::vector<double> values;   // [rows, columns]
  std::vector<int64_t> labels;  // [rows] class ids; empty without a label column
  int64_t rows = 0;
  int64_t feature_count() const { return static_cast<int64_t>(columns.size()); }
};

// Reads a table to train on. Throws Error (data) that begins "file:line:column: ", Error (missing)
// when there is no such file, Error (usage) when a column is named that the table does not have.
Table load_table(const TableOptions& options);

// Reads a table to apply a model to: its columns are found by name where both have names, else by
// position. The label column may be there or not; labels of classes that the model does not know
// are refused. Columns that the model does not use are listed in `unused`.
Table load_table_for(const Preprocessing& facts, const TableOptions& options,
                     std::vector<std::string>* unused);

struct Split {
  std::vector<int64_t> train, test;  // rows, rising
};
// Holds out about `fraction` of every class, drawn by `seed`, and at least one row of each class
// for training.
Split stratified_split(const std::vector<int64_t>& labels, double fraction, uint64_t seed);

// Mean and standard deviation of each column over `rows`; 1 for the deviation of a constant column.
Preprocessing fit_preprocessing(const Table& table, const std::vector<int64_t>& rows);

Tensor features_of(const Table& table, const Preprocessing& facts,
                   const std::vector<int64_t>& rows);                    // f32 [rows, columns]
Tensor labels_of(const Table& table, const std::vector<int64_t>& rows);  // i64 [rows]
std::vector<int64_t> all_rows(const Table& table);

}  // namespace pinion::toy
