// SPDX-License-Identifier: Apache-2.0
// Metric files: what a record looks like, and that it is written in one piece.
#include "pinion/accel/track/tracker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string contents(const std::string& path) { return read_file(path, 1 << 20); }

int writes_in(const FaultyFs& fs) {
  int n = 0;
  for (const auto& call : fs.calls()) n += call.name == "write";
  return n;
}

TEST(JsonlTracker, WritesOneObjectALine) {
  const TempDir dir;
  const std::string path = dir / "m.jsonl";
  JsonlTracker tracker(path, TrackerStart::replace);
  tracker.log({{"epoch", 1}, {"loss", 0.1}, {"done", false}, {"note", "a \"b\"\n\\"}});
  tracker.log({{"epoch", 2}, {"loss", kNaN}, {"high", kInf}, {"low", -kInf}});
  tracker.log({});
  EXPECT_EQ(contents(path),
            "{\"epoch\":1,\"loss\":0.1,\"done\":false,\"note\":\"a \\\"b\\\"\\n\\\\\"}\n"
            "{\"epoch\":2,\"loss\":\"nan\",\"high\":\"inf\",\"low\":\"-inf\"}\n"
            "{}\n");
}

TEST(JsonlTracker, NumbersReadBackTheSame) {
  const TempDir dir;
  const std::string path = dir / "m.jsonl";
  for (const double value : {1.0 / 3, 1e300, -5e-324, 0.0, 123456789.125, 1e16}) {
    JsonlTracker(path, TrackerStart::replace).log({{"v", value}});
    EXPECT_EQ(nlohmann::json::parse(contents(path))["v"].get<double>(), value);
  }
  JsonlTracker(path, TrackerStart::replace).log({{"v", std::numeric_limits<long long>::min()}});
  EXPECT_EQ(nlohmann::json::parse(contents(path))["v"].get<int64_t>(),
            std::numeric_limits<int64_t>::min());
}

TEST(JsonlTracker, TextIsAlwaysValidJson) {
  const TempDir dir;
  const std::string path = dir / "m.jsonl";
  JsonlTracker(path, TrackerStart::replace).log({{"k\xff", "größe \x01 \xc3"}});
  EXPECT_EQ(nlohmann::json::parse(contents(path)).at("k\xef\xbf\xbd").get<std::string>(),
            "größe \x01 \xef\xbf\xbd");
}

TEST(JsonlTracker, ReplacesOrContinues) {
  const TempDir dir;
  const std::string path = dir / "m.jsonl";
  JsonlTracker(path, TrackerStart::replace).log({{"a", 1}});
  JsonlTracker(path, TrackerStart::continued).log({{"a", 2}});
  EXPECT_EQ(contents(path), "{\"a\":1}\n{\"a\":2}\n");
  JsonlTracker(path, TrackerStart::replace).log({{"a", 3}});
  EXPECT_EQ(contents(path), "{\"a\":3}\n");
}

TEST(Trackers, OneFileIsOfOneRun) {
  const TempDir dir;
  const std::string path = dir / "m.jsonl";
  {
    JsonlTracker first(path, TrackerStart::replace);
    first.log({{"epoch", 1}});
    for (const TrackerStart start : {TrackerStart::replace, TrackerStart::continued}) try {
        JsonlTracker second(path, start);
        FAIL() << "expected an error";
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), ErrorKind::config);
        EXPECT_NE(std::string(e.what()).find("another run is writing " + path), std::string::npos);
      }
    first.log({{"epoch", 2}});
    EXPECT_EQ(contents(path), "{\"epoch\":1}\n{\"epoch\":2}\n");
  }
  JsonlTracker(path, TrackerStart::continued).log({{"epoch", 3}});
  EXPECT_EQ(contents(path), "{\"epoch\":1}\n{\"epoch\":2}\n{\"epoch\":3}\n");
}

TEST(Trackers, ManyRunsMayAddALineEach) {
  const TempDir dir;
  const std::string path = dir / "records.csv";
  std::vector<std::thread> runs;
  for (int run = 0; run < 4; ++run)
    runs.emplace_back([&, run] {
      CsvTracker(path, TrackerStart::continued).log({{"run", run}, {"score", 0.5}});
    });
  for (std::thread& run : runs) run.join();
  const std::string text = contents(path);
  EXPECT_EQ(text.substr(0, 10), "run,score\n");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
}

TEST(Trackers, WriteARecordAtOnceAndReportFailure) {
  const TempDir dir;
  FaultyFs faulty;
  const FsGuard guard(faulty);
  JsonlTracker jsonl(dir / "m.jsonl", TrackerStart::replace);
  CsvTracker csv(dir / "m.csv", TrackerStart::replace);
  jsonl.log({{"a", 1}, {"b", 2.5}});
  csv.log({{"a", 1}, {"b", 2.5}});
  csv.log({{"a", 1}, {"b", 2.5}});
  EXPECT_EQ(writes_in(faulty), 3);
  faulty.fail_call("write", 1, ENOSPC);
  const Error e = error_of([&] { jsonl.log({{"a", 2}}); });
  EXPECT_EQ(e.kind(), ErrorKind::io);
  EXPECT_THAT(e.what(), testing::HasSubstr("m.jsonl"));
  EXPECT_EQ(contents(dir / "m.jsonl"), "{\"a\":1,\"b\":2.5}\n");
}

TEST(CsvTracker, WritesAHeaderAndQuotesCells) {
  const TempDir dir;
  const std::string path = dir / "m.csv";
  CsvTracker tracker(path, TrackerStart::replace);
  tracker.log({{"epoch", 1}, {"a,b", "x\"y"}, {"loss", kNaN}, {"ok", true}});
  tracker.log({{"epoch", 2}, {"a,b", "two\nlines"}, {"loss", 0.25}, {"ok", false}});
  EXPECT_EQ(contents(path),
            "epoch,\"a,b\",loss,ok\n"
            "1,\"x\"\"y\",nan,true\n"
            "2,\"two\nlines\",0.25,false\n");
}

TEST(CsvTracker, RefusesOtherColumns) {
  const TempDir dir;
  const std::string path = dir / "m.csv";
  {
    CsvTracker tracker(path, TrackerStart::replace);
    tracker.log({{"a", 1}, {"b", 2}});
    EXPECT_THAT(error_of([&] {
                  tracker.log({{"a", 1}});
                }).what(),
                testing::HasSubstr("2 fields, got 1"));
    EXPECT_THAT(error_of([&] {
                  tracker.log({{"a", 1}, {"c", 1}});
                }).what(),
                testing::HasSubstr("field 1 must be b, got c"));
  }
  const Error e = error_of([&] { CsvTracker(path, TrackerStart::continued).log({{"x", 1}}); });
  EXPECT_EQ(e.kind(), ErrorKind::data);
  EXPECT_THAT(e.what(), testing::HasSubstr("must have the columns x, got a,b"));
  CsvTracker(path, TrackerStart::continued).log({{"a", 3}, {"b", 4}});
  EXPECT_EQ(contents(path), "a,b\n1,2\n3,4\n");
}

// A run that was killed after its checkpoint leaves more than it should; the one that resumes ends
// with the file of a run that nobody stopped.
TEST(Tracker, GoesBackToWhereACheckpointLeftIt) {
  const TempDir dir;
  const auto check = [&](const std::string& name, auto make) {
    const std::string path = dir / name;
    int64_t position = 0;
    {
      auto tracker = make(path);
      for (int i = 0; i < 3; ++i) tracker.log({{"i", i}});
      position = tracker.position();
    }
    const std::string at_checkpoint = contents(path);
    EXPECT_EQ(position, static_cast<int64_t>(at_checkpoint.size()));
    make(path).log({{"i", 100}});
    {
      auto tracker = make(path);
      tracker.go_back(position);
      EXPECT_EQ(contents(path), at_checkpoint);
      tracker.log({{"i", 3}});
    }
    {
      auto whole = make(path + "2");
      for (int i = 0; i < 4; ++i) whole.log({{"i", i}});
    }
    EXPECT_EQ(contents(path), contents(path + "2"));
    auto tracker = make(path);
    const Error error = error_of([&] { tracker.go_back(1000); });
    EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
    EXPECT_THAT(error.what(), testing::HasSubstr("at least 1000 bytes"));
    tracker.go_back(0);
    tracker.log({{"i", 0}});
    EXPECT_EQ(contents(path), contents(path + "2").substr(0, contents(path).size()));
    EXPECT_FALSE(contents(path).empty());
    auto elsewhere = make(path + "3");  // the run goes on in another folder: nothing to go back in
    elsewhere.go_back(1000);
    elsewhere.log({{"i", 0}});
    EXPECT_EQ(contents(path + "3"), contents(path));
  };
  check("a.jsonl", [](const std::string& p) { return JsonlTracker(p, TrackerStart::continued); });
  check("a.csv", [](const std::string& p) { return CsvTracker(p, TrackerStart::continued); });
}

}  // namespace
}  // namespace pinion::accel
