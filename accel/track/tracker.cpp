// SPDX-License-Identifier: Apache-2.0
// Formats records and appends them to files.
#include "pinion/accel/track/tracker.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "pinion/kernels/check.h"

namespace pinion::accel {

namespace {

constexpr int64_t kMaxHeader = 1 << 20;  // bytes of the first line of a CSV file to continue

std::string_view text_of_non_finite(double v) {
  return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
}

void append_json(std::string& out, const Value& v) {
  switch (v.kind()) {
    case Value::Kind::integer: fmt::format_to(std::back_inserter(out), "{}", v.integer()); return;
    case Value::Kind::boolean: out += v.boolean() ? "true" : "false"; return;
    case Value::Kind::text: append_json_text(out, v.text()); return;
    case Value::Kind::real:
      if (std::isfinite(v.real()))
        fmt::format_to(std::back_inserter(out), "{}", v.real());
      else
        append_json_text(out, text_of_non_finite(v.real()));
      return;
  }
}

void append_csv(std::string& out, const Value& v) {
  if (v.kind() == Value::Kind::text)
    append_csv_text(out, v.text());
  else if (v.kind() == Value::Kind::real && !std::isfinite(v.real()))
    out += text_of_non_finite(v.real());
  else
    append_json(out, v);
}

// The file for this run alone: two that write one file leave the records of neither. Who only adds
// a line to the records of many runs is through in a moment.
File open_locked(const std::string& path) {
  File file(path, OpenMode::append);
  bool ours = file.try_lock();
  for (int tries = 0; tries < 20 && !ours; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ours = file.try_lock();
  }
  PINION_REQUIRE(config, ours, "tracker: another run is writing ", path,
                 "; give each a directory of its own");
  return file;
}

// A new file, not an emptied one: emptying makes some file systems wait for the disk.
File open_tracker(const std::string& path, TrackerStart start) {
  File file = open_locked(path);
  if (start != TrackerStart::replace || file.size() == 0) return file;
  remove_file(path);
  return open_locked(path);
}

int64_t synced_size(File& file) {
  file.sync();
  return file.size();
}

// A file that is shorter than it was is not the one that the position is of. An empty one is new:
// the run goes on in another folder.
void cut(File& file, int64_t position) {
  const int64_t size = file.size();
  if (size == 0 && position > 0) return;
  PINION_REQUIRE(checkpoint, position >= 0 && position <= size, "tracker: expected at least ",
                 position, " bytes in ", file.path(), ", got ", size);
  if (position < size) file.truncate(position);
}

// The first line of a file, without its line end.
std::string first_line(const std::string& path) {
  const File file(path, OpenMode::read);
  std::string text(kMaxHeader, '\0');
  text.resize(file.read_some(text.data(), text.size(), 0));
  const size_t end = text.find('\n');
  PINION_REQUIRE(data, end != std::string::npos, "CsvTracker: ", path,
                 " must begin with a line of column names");
  text.resize(end);
  return text;
}

}  // namespace

void append_json_text(std::string& out, std::string_view text) {
  bool plain = true;
  for (const char c : text) plain &= c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
  if (plain) {
    out += '"';
    out += text;
    out += '"';
    return;
  }
  out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void append_csv_text(std::string& out, std::string_view text) {
  if (text.find_first_of(",;\t\"\r\n") == std::string_view::npos && !text.starts_with(' ') &&
      !text.ends_with(' ')) {
    out += text;
    return;
  }
  out += '"';
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  out += '"';
}

JsonlTracker::JsonlTracker(const std::string& path, TrackerStart start)
    : file_(open_tracker(path, start)) {}

void JsonlTracker::log(std::span<const Field> record) {
  line_.assign(1, '{');
  for (const Field& field : record) {
    if (line_.size() > 1) line_ += ',';
    append_json_text(line_, field.name);
    line_ += ':';
    append_json(line_, field.value);
  }
  line_ += "}\n";
  file_.write(line_);
}

int64_t JsonlTracker::position() { return synced_size(file_); }
void JsonlTracker::go_back(int64_t position) { cut(file_, position); }

CsvTracker::CsvTracker(const std::string& path, TrackerStart start)
    : file_(open_tracker(path, start)) {}

void CsvTracker::begin(std::span<const Field> record) {
  PINION_CHECK(!record.empty(), "CsvTracker: a record must have at least one field");
  std::string names;
  for (const Field& field : record) {
    columns_.emplace_back(field.name);
    if (!names.empty()) names += ',';
    append_csv_text(names, field.name);
  }
  if (file_.size() == 0) {
    line_ = names + "\n";
    return;
  }
  const std::string have = first_line(file_.path());
  PINION_REQUIRE(data, have == names, "CsvTracker: ", file_.path(), " must have the columns ",
                 names, ", got ", have);
  line_.clear();
}

int64_t CsvTracker::position() { return synced_size(file_); }
void CsvTracker::go_back(int64_t position) {
  cut(file_, position);
  columns_.clear();  // the next record finds out whether they are there
}

void CsvTracker::log(std::span<const Field> record) {
  if (columns_.empty())
    begin(record);
  else
    line_.clear();
  PINION_CHECK(record.size() == columns_.size(), "CsvTracker: a record must have ", columns_.size(),
               " fields, got ", record.size());
  bool first = true;
  for (size_t i = 0; i < record.size(); ++i) {
    PINION_CHECK(record[i].name == columns_[i], "CsvTracker: field ", i, " must be ", columns_[i],
                 ", got ", record[i].name);
    if (!first) line_ += ',';
    first = false;
    append_csv(line_, record[i].value);
  }
  line_ += '\n';
  file_.write(line_);
}

}  // namespace pinion::accel
