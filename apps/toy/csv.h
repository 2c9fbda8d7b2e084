// SPDX-License-Identifier: Apache-2.0
// CsvReader: streams the records of a CSV file (RFC 4180: quoted cells, doubled quotes, line ends
// inside quotes; LF or CRLF; an UTF-8 byte-order mark) in memory that does not grow with the file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/runtime/fs.h"

namespace pinion::toy {

struct Cell {
  std::string_view text;  // without its quotes
  uint32_t at;            // where it begins, in bytes from the start of the record
};

class CsvReader {
 public:
  static constexpr size_t kMaxRecord = size_t{1} << 20;  // bytes; a longer one is refused

  // delimiter: ',', ';' or tab; 0 takes the one that the first record holds most of. All errors are
  // pinion::Error that begin with "file:line:column: ".
  explicit CsvReader(const std::string& path, char delimiter = 0);

  // The cells of the next record that is not an empty line; false at the end of the file. They are
  // valid until the next call.
  bool next();
  const std::vector<Cell>& cells() const { return cells_; }

  char delimiter() const { return delimiter_; }
  const std::string& path() const { return path_; }
  int64_t line() const { return record_line_; }  // where the record begins, from 1
  int64_t file_bytes() const { return file_bytes_; }
  size_t record_bytes() const { return record_size_; }
  // "table.csv:12:8" for a cell of the current record; column counts bytes of its line, from 1.
  std::string where(const Cell& cell) const { return where(cell.at); }

 private:
  enum class Scan : uint8_t { done, more };  // more: the record does not end in the buffer

  bool fill();  // reads on behind the buffer's contents; false at the end of the file
  void begin_file();
  void pick_delimiter();
  bool take_record();
  void split_plain(const char* begin, const char* end);
  Scan split_quoted(const char* begin, const char* end, const char** next);
  std::string where(size_t at) const;
  [[noreturn]] void fail_at(size_t at, std::initializer_list<Part> what) const;

  std::string path_;
  File file_;
  int64_t file_bytes_ = 0;
  std::unique_ptr<char[]> buffer_;
  size_t begin_ = 0, end_ = 0;  // what of the buffer is not consumed yet
  int64_t offset_ = 0;          // in the file, of what comes after the buffer
  bool at_end_ = false;         // the whole file is in the buffer or consumed
  char delimiter_;
  int64_t line_ = 1;  // of buffer_[begin_]
  int64_t record_line_ = 0;
  const char* record_ = nullptr;
  size_t record_size_ = 0;
  std::vector<Cell> cells_;
  std::vector<std::unique_ptr<std::string>> unquoted_;  // cells whose text differs from the file's
  size_t unquoted_used_ = 0;
};

}  // namespace pinion::toy
