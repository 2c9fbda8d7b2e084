// SPDX-License-Identifier: Apache-2.0
// A line without quotes, the common case, is found and split by memchr; the others go through a
// small state machine.
#include "pinion/apps/toy/csv.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "pinion/runtime/log.h"

namespace pinion::toy {

namespace {

constexpr size_t kBlock = 256 * 1024;  // bytes per read
constexpr size_t kBuffer = CsvReader::kMaxRecord + kBlock;

const char* find(const char* begin, const char* end, char c) {
  return static_cast<const char*>(std::memchr(begin, c, static_cast<size_t>(end - begin)));
}

std::string_view trimmed(const char* begin, const char* end) {
  while (begin < end && (*begin == ' ' || *begin == '\t')) ++begin;
  while (begin < end && (end[-1] == ' ' || end[-1] == '\t')) --end;
  return {begin, static_cast<size_t>(end - begin)};
}

}  // namespace

CsvReader::CsvReader(const std::string& path, char delimiter)
    : path_(path),
      file_(path, OpenMode::read),
      file_bytes_(file_.size()),
      buffer_(std::make_unique_for_overwrite<char[]>(kBuffer)),
      delimiter_(delimiter) {
  begin_file();
}

bool CsvReader::fill() {
  if (at_end_) return false;
  if (begin_ > 0) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const size_t room = std::min(kBlock, kBuffer - end_);
  const size_t got = file_.read_some(buffer_.get() + end_, room, offset_);
  offset_ += static_cast<int64_t>(got);
  end_ += got;
  at_end_ = got < room;
  return got > 0;
}

void CsvReader::begin_file() {
  fill();
  const std::string_view start(buffer_.get(), end_);
  PINION_REQUIRE(data, !start.starts_with("\xff\xfe") && !start.starts_with("\xfe\xff"), path_,
                 ":1:1: expected UTF-8 text, got UTF-16: save the table as UTF-8");
  if (start.starts_with("\xef\xbb\xbf")) begin_ = 3;
  if (delimiter_ == 0) pick_delimiter();
}

// Counts candidates outside quotes in the first line that is not empty.
void CsvReader::pick_delimiter() {
  constexpr std::array<char, 3> kCandidates = {',', ';', '\t'};
  std::array<int, kCandidates.size()> count{};
  bool quoted = false, any = false;
  for (size_t i = begin_; i < end_; ++i) {
    const char c = buffer_[i];
    if (c == '"') quoted = !quoted;
    if (c == '\n' && any && !quoted) break;
    any |= c != '\n' && c != '\r';
    for (size_t k = 0; k < kCandidates.size(); ++k) count[k] += c == kCandidates[k] && !quoted;
  }
  const auto most = std::max_element(count.begin(), count.end());
  delimiter_ = kCandidates[static_cast<size_t>(most - count.begin())];
}

std::string CsvReader::where(size_t at) const {
  int64_t line = record_line_;
  size_t line_start = 0;
  for (size_t i = 0; i < std::min(at, record_size_); ++i)
    if (record_[i] == '\n') ++line, line_start = i + 1;
  return cat({path_, ":", line, ":", at - line_start + 1});
}

void CsvReader::fail_at(size_t at, std::initializer_list<Part> what) const {
  fail(ErrorKind::data, {where(at), ": ", cat(what)});
}

bool CsvReader::next() {
  do {
    if (!take_record()) return false;
  } while (cells_.size() == 1 && cells_[0].text.empty());  // an empty line
  return true;
}

// Splits the record that begins at begin_, reading on until it is whole.
bool CsvReader::take_record() {
  if (begin_ == end_ && !fill()) return false;
  for (size_t searched = 0;;) {
    const char* begin = buffer_.get() + begin_;
    const char* end = buffer_.get() + end_;
    record_ = begin;
    record_line_ = line_;
    record_size_ = static_cast<size_t>(end - begin);
    const char* newline = find(begin + searched, end, '\n');
    const char* line_end = newline ? newline : end;
    const char* next = newline ? newline + 1 : end;
    const bool whole = newline != nullptr || at_end_;
    Scan scan = whole ? Scan::done : Scan::more;
    if (whole) {
      if (line_end > begin && line_end[-1] == '\r') --line_end;
      if (find(begin, line_end, '"') == nullptr)
        split_plain(begin, line_end);
      else
        scan = split_quoted(begin, end, &next);
    }
    if (scan == Scan::done) {
      if (record_size_ > kMaxRecord) break;
      begin_ += static_cast<size_t>(next - begin);
      return true;
    }
    if (static_cast<size_t>(end - begin) > kMaxRecord) break;
    searched = whole ? 0 : static_cast<size_t>(end - begin);
    fill();
  }
  record_size_ = 0;
  fail_at(0, {"expected lines of at most ", kMaxRecord,
              " bytes, got a longer one (is a quote left open?)"});
}

void CsvReader::split_plain(const char* begin, const char* end) {
  record_size_ = static_cast<size_t>(end - begin);
  if (const char* nul = find(begin, end, '\0'))
    fail_at(static_cast<size_t>(nul - begin), {"expected text, got a NUL byte"});
  ++line_;
  cells_.clear();
  for (const char* cell = begin;;) {
    const char* stop = cell;
    while (stop < end && *stop != delimiter_) ++stop;
    cells_.push_back({trimmed(cell, stop), static_cast<uint32_t>(cell - begin)});
    if (stop == end) return;
    cell = stop + 1;
  }
}

// The same for a record that holds quotes and may hold line ends within them.
CsvReader::Scan CsvReader::split_quoted(const char* begin, const char* end, const char** next) {
  cells_.clear();
  unquoted_used_ = 0;
  int64_t lines = 1;
  const auto offset = [&](const char* p) { return static_cast<size_t>(p - begin); };
  const auto is_end = [&](const char* p) {
    return p == end || *p == '\n' || (*p == '\r' && p + 1 < end && p[1] == '\n');
  };
  for (const char* cell = begin;;) {
    const char* p = cell;
    while (p < end && *p == ' ' && delimiter_ != ' ') ++p;
    if (p < end && *p == '"') {
      const char* open = p++;
      if (unquoted_used_ == unquoted_.size()) unquoted_.push_back(std::make_unique<std::string>());
      std::string& text = *unquoted_[unquoted_used_++];
      text.clear();
      for (;; ++p) {
        if (p == end) {
          if (!at_end_) return Scan::more;
          fail_at(offset(open), {"expected a closing quote, got the end of the file"});
        }
        if (*p == '"') {
          if (p + 1 == end && !at_end_) return Scan::more;
          if (p + 1 == end || p[1] != '"') break;
          ++p;
        }
        if (*p == '\0') fail_at(offset(p), {"expected text, got a NUL byte"});
        lines += *p == '\n';
        text += *p;
      }
      ++p;  // the closing quote
      while (p < end && *p == ' ') ++p;
      if (p + 1 >= end && !at_end_) return Scan::more;
      if (!is_end(p) && *p != delimiter_)
        fail_at(offset(p), {"expected a delimiter after the closing quote, got ",
                            quoted(std::string_view(p, 1))});
      cells_.push_back({text, static_cast<uint32_t>(offset(cell))});
    } else {
      while (!is_end(p) && *p != delimiter_) {
        if (*p == '\0') fail_at(offset(p), {"expected text, got a NUL byte"});
        ++p;
      }
      if (p + 1 >= end && !at_end_) return Scan::more;
      cells_.push_back({trimmed(cell, p), static_cast<uint32_t>(offset(cell))});
    }
    if (is_end(p)) {
      record_size_ = offset(p);
      line_ += lines;
      *next = p == end ? p : p + (*p == '\r' ? 2 : 1);
      return Scan::done;
    }
    cell = p + 1;
  }
}

}  // namespace pinion::toy
