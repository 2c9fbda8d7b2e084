// SPDX-License-Identifier: Apache-2.0
// Which of several failures of ranks is the cause, how it is told, and the records that ranks
// leave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pinion/accel/error_record.h"
#include "pinion/accel/launch/verdict.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using testing::HasSubstr;

RankEnd ended(int rank, int code, int signal = 0) {
  RankEnd end;
  end.rank = rank;
  end.pid = 100 + rank;
  end.code = signal != 0 ? 128 + signal : code;
  end.signal = signal;
  return end;
}
RankEnd told(RankEnd end, int64_t record_ns = -1) {
  end.told = true;
  end.told_ns = 1000;
  if (record_ns >= 0) end.error = ErrorRecord{end.code, "io", "disk", record_ns};
  return end;
}
RankEnd stuck(RankEnd end) {
  end = told(std::move(end));
  end.code = 81;
  end.stuck = "was running";
  return end;
}
RankEnd forwarded(RankEnd end, int signal) {
  end.forwarded = signal;
  return end;
}

TEST(LaunchVerdict, NamesTheCause) {
  const struct {
    const char* about;
    std::vector<RankEnd> ends;
    int stop_signal, code, culprit;  // -1: none
  } rows[] = {
      {"all is well", {ended(0, 0), ended(1, 0)}, 0, 0, -1},
      {"the first", {ended(1, 7), ended(0, 3)}, 0, 7, 1},
      {"a lost peer before the cause shows", {ended(0, 76), ended(1, 7)}, 0, 7, 1},
      {"a wait that was too long", {ended(0, 81), ended(1, 0, 9)}, 0, 137, 1},
      {"only lost peers", {ended(2, 76), ended(0, 76)}, 0, 76, 2},
      {"who obeyed is none", {told(ended(0, 0, 15)), ended(1, 76)}, 0, 76, 1},
      {"an error from before we asked", {ended(0, 76), told(ended(1, 74), 900)}, 0, 74, 1},
      {"an error from after we asked", {ended(0, 76), told(ended(1, 74), 1100)}, 0, 76, 0},
      {"preempted", {ended(0, 75), ended(1, 75)}, 0, 75, -1},
      {"preempted, others lost", {ended(0, 75), ended(1, 76)}, 0, 75, 1},
      {"preempted, but one save failed", {ended(0, 75), ended(1, 74)}, 15, 74, 1},
      {"asked to end",
       {forwarded(ended(0, 0, 15), 15), forwarded(ended(1, 0, 15), 15)},
       15,
       143,
       0},
      {"asked, and killed for being late", {told(ended(0, 0, 9))}, 2, 130, 0},
      {"asked, and lost who ended first",
       {forwarded(ended(1, 0, 15), 15), forwarded(ended(0, 76), 15)},
       15,
       143,
       1},
      {"who hangs is the cause", {ended(0, 81), ended(2, 81), stuck(ended(1, 0, 3))}, 0, 81, 1},
      {"but a crash came first", {ended(0, 81), ended(2, 0, 11), stuck(ended(1, 0, 3))}, 0, 139, 2},
      {"asked, but one crashed", {forwarded(ended(0, 0, 15), 15), ended(1, 0, 11)}, 15, 139, 1},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.about);
    const RankEnd* culprit = first_culprit(row.ends);
    EXPECT_EQ(exit_code(row.ends, row.stop_signal), row.code);
    EXPECT_EQ(culprit ? culprit->rank : -1, row.culprit);
  }
}

TEST(LaunchVerdict, DescribesInOneLine) {
  RankEnd end = ended(1, 0, 9);
  end.last_lines = "a | b";
  EXPECT_EQ(describe(end), "rank 1 (pid 101) ended by signal 9 (SIGKILL); last lines: a | b");
  end = ended(2, 78);
  EXPECT_EQ(describe(end), "rank 2 (pid 102) ended with code 78");
  end.error = ErrorRecord{78, "config", "two\nlines\x1b", 1};
  EXPECT_EQ(describe(end), "rank 2 (pid 102) ended with code 78 (config): two\\nlines\\x1b");
  end = stuck(ended(1, 0, 9));
  EXPECT_EQ(describe(end),
            "rank 1 (pid 101) kept others waiting too long: it was running; it ended by signal 9 "
            "(SIGKILL)");
  end = ended(0, 0, 11);
  end.error = ErrorRecord{139, "signal", "at address 0x0", 1, true};
  end.error_file = "logs/0/error.json";
  EXPECT_EQ(describe(end),
            "rank 0 (pid 100) ended by signal 11 (SIGSEGV) (signal): at address 0x0; its trace: "
            "logs/0/error.json");
}

TEST(ErrorRecordTest, IsWrittenAndRead) {
  const TempDir dir;
  setenv("PINION_ERROR_FILE", (dir / "error.json").c_str(), 1);
  record_error(ErrorKind::checkpoint, "shard 'x' is cut \xff");
  unsetenv("PINION_ERROR_FILE");
  const auto record = read_error_record(dir / "error.json");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->code, 80);
  EXPECT_EQ(record->kind, "checkpoint");
  EXPECT_EQ(record->message, "shard 'x' is cut \\xff");
  EXPECT_GT(record->monotonic_ns, 0);
  EXPECT_FALSE(read_error_record(dir / "none.json"));
  record_error(ErrorKind::io, "nobody asked");  // no variable: nothing is written
  EXPECT_EQ(list_dir(dir.path()).size(), 1);
}

TEST(ErrorRecordTest, AnythingElseIsNone) {
  for (const char* text : {"", "{", "[]", "null", "{\"code\":7}", "7",
                           R"({"code":"x","class":"c","message":"m","t_mono_ns":1})",
                           R"({"code":1e99,"class":"c","message":"m","t_mono_ns":1})",
                           R"({"code":7,"class":7,"message":"m","t_mono_ns":1})"})
    EXPECT_FALSE(parse_error_record(text)) << text;
}

}  // namespace
}  // namespace pinion::accel
