// SPDX-License-Identifier: Apache-2.0
// Which of several failed ranks failed first, and what the launcher says and returns for it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pinion::accel {

// What a program left behind in PINION_ERROR_FILE (accel/error_record.h, accel/crash_record.h).
struct ErrorRecord {
  int code = 0;
  std::string kind, message;
  int64_t monotonic_ns = 0;
  bool backtrace = false;  // there is one
};
// Nothing when the file is not there or holds something else.
std::optional<ErrorRecord> read_error_record(const std::string& path);
std::optional<ErrorRecord> parse_error_record(std::string_view text);

// How one rank ended. In the order of the ends.
struct RankEnd {
  int rank = 0;
  pid_t pid = 0;
  int code = 0;         // of exit(); 128 + signal; that of ErrorKind::hang if it was stuck
  int signal = 0;       // that ended it, or 0
  bool told = false;    // the launcher had asked it to end, because of another rank
  int64_t told_ns = 0;  // when, on the monotonic clock
  int forwarded = 0;    // a signal to stop that came from outside, or 0
  std::string stuck;    // what it was at when others had waited for it too long; or empty
  std::optional<ErrorRecord> error;
  std::string error_file;  // where the record of a crash can be read later; or empty
  std::string last_lines;
};

// The end that the others followed from: one that is no consequence (a lost peer, a wait that was
// too long, our own request), the first of them; if all are consequences, the first of those. Null
// when no rank failed.
const RankEnd* first_culprit(const std::vector<RankEnd>& ends);

// What the launcher exits with: the culprit's code; 75 if ranks stopped for a later start; 128 +
// the signal that asked the launcher to end, if all that failed did because of it; else 0.
int exit_code(const std::vector<RankEnd>& ends, int stop_signal);

// What a machine's ranks ended with. A lower weight outweighs: 0 a cause, 1 a consequence or a stop
// for a later start, 2 what was asked for. Code 0: all is well.
struct Verdict {
  int code = 0, weight = 0;
  int stop_signal = 0;  // that a launcher was asked to end by, or 0
  std::string text;     // about the culprit, if there is one
};
Verdict judge(const std::vector<RankEnd>& ends, int stop_signal);

// "rank 1 (pid 123) ended by signal 9 (SIGKILL); last lines: …"
std::string describe(const RankEnd& end);

}  // namespace pinion::accel
