// SPDX-License-Identifier: Apache-2.0
// Trackers keep the figures of a run in files: one JSON object or one CSV row a record, appended in
// one write, so that a reader, or a crash, never meets half a line.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/runtime/fs.h"

namespace pinion::accel {

// One value of a record. Text is referred to, not copied.
class Value {
 public:
  enum class Kind : uint8_t { integer, real, boolean, text };

  Value(int v) : Value(static_cast<long long>(v)) {}           // NOLINT: implicit
  Value(long v) : Value(static_cast<long long>(v)) {}          // NOLINT
  Value(long long v) : kind_(Kind::integer), integer_(v) {}    // NOLINT
  Value(double v) : kind_(Kind::real), real_(v) {}             // NOLINT
  Value(bool v) : kind_(Kind::boolean), boolean_(v) {}         // NOLINT
  Value(std::string_view v) : kind_(Kind::text), text_(v) {}   // NOLINT
  Value(const std::string& v) : Value(std::string_view(v)) {}  // NOLINT
  Value(const char* v) : Value(std::string_view(v)) {}         // NOLINT

  Kind kind() const { return kind_; }
  long long integer() const { return integer_; }
  double real() const { return real_; }
  bool boolean() const { return boolean_; }
  std::string_view text() const { return text_; }

 private:
  Kind kind_;
  union {
    long long integer_;
    double real_;
    bool boolean_;
    std::string_view text_;
  };
};

struct Field {
  std::string_view name;
  Value value;
};

class Tracker {
 public:
  virtual ~Tracker() = default;
  virtual void log(std::span<const Field> record) = 0;
  void log(std::initializer_list<Field> record) {
    log(std::span<const Field>(record.begin(), record.size()));
  }
  // For checkpoints: what has been logged, made durable, as a number that go_back() understands; of
  // a file, its length. A run that resumes goes back to that of its checkpoint, so that its file
  // ends up as if it had never stopped; 0 begins anew. A file that is empty stays so: the run goes
  // on in another folder.
  virtual int64_t position() = 0;
  virtual void go_back(int64_t position) = 0;
};

// What a file may already hold when a tracker opens it. A file that another tracker, of any
// process, has open is an Error (config).
enum class TrackerStart : uint8_t {
  replace,   // the file is removed and a new one begun
  continued  // kept
};

// {"epoch":1,"loss":0.6755} — numbers in the fewest digits that read back the same; what JSON has
// no number for is text: "nan", "inf", "-inf".
class JsonlTracker final : public Tracker {
 public:
  JsonlTracker(const std::string& path, TrackerStart start);
  using Tracker::log;
  void log(std::span<const Field> record) override;
  int64_t position() override;
  void go_back(int64_t position) override;
  void sync() { file_.sync(); }

 private:
  File file_;
  std::string line_;
};

// A row of column names from the first record, then a row a record, quoted as RFC 4180 says. Every
// record must have the fields of the first one, in its order. A file that is continued must begin
// with those names.
class CsvTracker final : public Tracker {
 public:
  CsvTracker(const std::string& path, TrackerStart start);
  using Tracker::log;
  void log(std::span<const Field> record) override;
  int64_t position() override;
  void go_back(int64_t position) override;
  void sync() { file_.sync(); }

 private:
  void begin(std::span<const Field> record);

  File file_;
  std::vector<std::string> columns_;
  std::string line_;
};

// Appends text as a JSON string; bytes that are not UTF-8 become U+FFFD.
void append_json_text(std::string& out, std::string_view text);
// Appends text as a CSV cell, in quotes where RFC 4180 asks for them.
void append_csv_text(std::string& out, std::string_view text);

}  // namespace pinion::accel
