// SPDX-License-Identifier: Apache-2.0
// Standard output and errors of ranks: line by line onto the launcher's own, under the rank's name,
// and into files. The last lines are kept for the report about a rank that failed.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "pinion/accel/launch/process.h"
#include "pinion/runtime/fs.h"

namespace pinion::accel {

class OutputStream {
 public:
  // Reads from `from` and writes lines to `to`, each after `prefix`; and the bytes as they come to
  // `file`, unless it is empty.
  OutputStream(Fd from, int to, std::string prefix, const std::string& file);

  int fd() const { return from_.get(); }  // -1 once the other end is closed
  // Moves what is there without waiting. False when the other end is closed.
  bool pump();
  void finish();  // writes what has no end of line yet, and closes

  std::string last_lines() const;

 private:
  void take(std::string_view bytes);
  void write_line(std::string_view line);

  Fd from_;
  int to_;
  bool to_is_gone_ = false;
  std::string prefix_, pending_;
  std::unique_ptr<File> file_;
  std::deque<std::string> last_;
};

}  // namespace pinion::accel
