// SPDX-License-Identifier: Apache-2.0
// Tells the cause of a failed run from its consequences.
#include "pinion/accel/launch/verdict.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "pinion/runtime/fs.h"
#include "pinion/runtime/json.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr int64_t kMaxRecordBytes = 65536;

constexpr int code_of(ErrorKind kind) { return static_cast<int>(kind); }

// 0: a cause of its own. 1: what a rank does when another one is gone. 2: what it was asked for.
int consequence(const RankEnd& end) {
  if (!end.stuck.empty()) return 0;
  // An error that was there before we asked is the rank's own, though it ended after.
  const bool told = end.told && !(end.error && end.error->monotonic_ns < end.told_ns);
  if (told || (end.signal != 0 && end.signal == end.forwarded)) return 2;
  const bool missed_others =
      end.code == code_of(ErrorKind::peer_lost) || end.code == code_of(ErrorKind::hang);
  if (missed_others) return end.forwarded != 0 ? 2 : 1;  // others were asked to end, too
  return 0;
}

bool failed(const RankEnd& end) {
  return end.code != 0 && end.code != code_of(ErrorKind::preempted);
}

}  // namespace

std::optional<ErrorRecord> parse_error_record(std::string_view text) {
  try {
    const nlohmann::json json = parse_json(text, "error record");
    ErrorRecord record;
    if (!json.at("code").is_number_integer() || !json.at("t_mono_ns").is_number_integer())
      return std::nullopt;
    record.code = json.at("code").get<int>();
    record.kind = json.at("class").get<std::string>();
    record.message = json.at("message").get<std::string>();
    record.monotonic_ns = json.at("t_mono_ns").get<int64_t>();
    record.backtrace = json.contains("backtrace");
    return record;
  } catch (const std::exception&) {  // a program of somebody else may have written anything
    return std::nullopt;
  }
}

std::optional<ErrorRecord> read_error_record(const std::string& path) {
  try {
    if (!exists(path)) return std::nullopt;
    return parse_error_record(read_file(path, kMaxRecordBytes));
  } catch (const Error&) {
    return std::nullopt;
  }
}

const RankEnd* first_culprit(const std::vector<RankEnd>& ends) {
  const RankEnd* best = nullptr;
  const auto earlier = [](const RankEnd& a, const RankEnd& b) {
    return consequence(a) < consequence(b);  // the order of the ends decides between equals
  };
  for (const RankEnd& end : ends)
    if (failed(end) && (!best || earlier(end, *best))) best = &end;
  return best;
}

int exit_code(const std::vector<RankEnd>& ends, int stop_signal) {
  const bool stopped = std::any_of(ends.begin(), ends.end(), [](const RankEnd& end) {
    return end.code == code_of(ErrorKind::preempted);
  });
  const RankEnd* culprit = first_culprit(ends);
  // Ranks that saved and stopped outweigh one that only obeyed.
  if (stopped && (!culprit || consequence(*culprit) > 0)) return code_of(ErrorKind::preempted);
  if (!culprit) return 0;
  return stop_signal != 0 && consequence(*culprit) == 2 ? 128 + stop_signal : culprit->code;
}

Verdict judge(const std::vector<RankEnd>& ends, int stop_signal) {
  const RankEnd* culprit = first_culprit(ends);
  Verdict verdict;
  verdict.code = exit_code(ends, stop_signal);
  verdict.stop_signal = stop_signal;
  if (culprit) verdict.text = describe(*culprit);
  const bool stopped = verdict.code == code_of(ErrorKind::preempted);
  if (stopped || culprit) verdict.weight = stopped ? 1 : consequence(*culprit);
  return verdict;
}

std::string describe(const RankEnd& end) {
  std::string text = cat({"rank ", end.rank, " (pid ", static_cast<int>(end.pid), ") "});
  if (!end.stuck.empty()) text += cat({"kept others waiting too long: it ", end.stuck, "; it "});
  if (end.signal != 0) {
    const char* name = sigabbrev_np(end.signal);
    text += cat(
        {"ended by signal ", end.signal, name ? " (SIG" : "", name ? name : "", name ? ")" : ""});
  } else {
    text += cat({"ended with code ", end.code});
  }
  if (end.error)
    text += cat({" (", escaped(end.error->kind), "): ", escaped(end.error->message)});
  else if (!end.last_lines.empty())
    text += cat({"; last lines: ", end.last_lines});
  if (end.error && end.error->backtrace)
    text += cat({"; its trace: ", end.error_file.empty() ? "above, on its standard error"
                                                         : escaped(end.error_file)});
  return text;
}

}  // namespace pinion::accel
