// SPDX-License-Identifier: Apache-2.0
// Event files by a reader of our own, which checks every length and checksum.
#include "pinion/accel/track/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "pinion/runtime/crc32c.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

// A message as its fields: number to the values in order; numbers as bytes of their own.
using Message = std::multimap<uint32_t, std::string>;

uint64_t varint(std::string_view& from) {
  uint64_t out = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<uint8_t>(from.at(0));
    from.remove_prefix(1);
    out |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return out;
  }
}

Message parse(std::string_view from) {
  Message out;
  while (!from.empty()) {
    const uint64_t key = varint(from);
    size_t length = 0;
    switch (key & 7) {
      case 0: out.insert({key >> 3, std::to_string(varint(from))}); continue;
      case 1: length = 8; break;
      case 2: length = varint(from); break;
      case 5: length = 4; break;
      default: ADD_FAILURE() << "wire type " << (key & 7); return out;
    }
    out.insert({key >> 3, std::string(from.substr(0, length))});
    EXPECT_LE(length, from.size());
    from.remove_prefix(std::min(length, from.size()));
  }
  return out;
}

template <class T>
T as(std::string_view bytes) {
  T out{};
  EXPECT_GE(bytes.size(), sizeof out);
  std::memcpy(&out, bytes.data(), sizeof out);
  return out;
}

void check_crc(std::string_view data, uint32_t masked) {
  const uint32_t turned = masked - 0xa282ead8u;
  EXPECT_EQ((turned >> 17) | (turned << 15), crc32c(data.data(), data.size()));
}

std::vector<Message> events(const std::string& path) {
  const std::string bytes = read_file(path, 1 << 20);
  std::string_view rest = bytes;
  std::vector<Message> out;
  while (!rest.empty()) {
    const auto length = as<uint64_t>(rest);
    check_crc(rest.substr(0, 8), as<uint32_t>(rest.substr(8)));
    const std::string_view data = rest.substr(12, length);
    check_crc(data, as<uint32_t>(rest.substr(12 + length)));
    out.push_back(parse(data));
    rest.remove_prefix(16 + length);
  }
  return out;
}

std::string only(const Message& m, uint32_t field) {
  EXPECT_EQ(m.count(field), 1u) << field;
  return m.count(field) ? m.find(field)->second : "";
}

TEST(TensorBoard, WritesWhatTheFormatAsksFor) {
  const TempDir dir;
  TensorBoardTracker tracker(dir / "run/tb");
  EXPECT_THAT(tracker.path(), testing::HasSubstr("/run/tb/events.out.tfevents."));
  tracker.scalar("train/loss", 0.25, 300);
  tracker.text("note", "größe", 1);
  tracker.image("xray", "PNG", 20, 10, 1, 2);
  const std::vector<Message> all = events(tracker.path());
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(only(all[0], 3), "brain.Event:2");
  EXPECT_GT(as<double>(only(all[0], 1)), 1.7e9);
  EXPECT_EQ(only(parse(only(all[0], 10)), 1), "pinion");

  EXPECT_EQ(only(all[1], 2), "300");
  const Message scalar = parse(only(parse(only(all[1], 5)), 1));
  EXPECT_EQ(only(scalar, 1), "train/loss");
  EXPECT_EQ(as<float>(only(scalar, 2)), 0.25f);

  const Message text = parse(only(parse(only(all[2], 5)), 1));
  EXPECT_EQ(only(parse(only(parse(only(text, 9)), 1)), 1), "text");
  const Message tensor = parse(only(text, 8));
  EXPECT_EQ(only(tensor, 1), "7");
  EXPECT_EQ(only(tensor, 8), "größe");
  EXPECT_EQ(only(parse(only(parse(only(tensor, 2)), 2)), 1), "1");

  const Message image = parse(only(parse(only(parse(only(all[3], 5)), 1)), 4));
  EXPECT_EQ(only(image, 1) + "," + only(image, 2) + "," + only(image, 3), "10,20,1");
  EXPECT_EQ(only(image, 4), "PNG");
  EXPECT_THROW(tracker.image("x", "", 1, 1, 2, 0), Error);
}

TEST(TensorBoard, LogsARecordInOneWrite) {
  const TempDir dir;
  TensorBoardTracker tracker(dir.path());
  tracker.log({{"epoch", 3}, {"loss", std::nan("")}, {"done", true}, {"note", "x"}});
  tracker.log({{"epoch", 4}, {"step", 70}, {"loss", 1}});
  tracker.log({{"loss", 2}});
  const std::vector<Message> all = events(tracker.path());
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(only(all[1], 2), "3");
  const Message summary = parse(only(all[1], 5));
  EXPECT_EQ(summary.count(1), 3u);
  EXPECT_TRUE(std::isnan(as<float>(only(parse(summary.find(1)->second), 2))));
  EXPECT_EQ(only(all[2], 2), "70");
  EXPECT_EQ(parse(only(all[2], 5)).count(1), 2u);  // the epoch is a number like others then
  EXPECT_EQ(only(all[3], 2), "71");
}

TEST(TensorBoard, AResumedRunTellsWhereItGoesOn) {
  const TempDir dir;
  int64_t position = 0;
  {
    TensorBoardTracker tracker(dir.path());
    for (int64_t step = 0; step < 5; ++step) tracker.scalar("a", 0, step);
    position = tracker.position();
    EXPECT_EQ(position, 5);
    tracker.scalar("a", 0, 5);  // after the checkpoint: to be dropped
  }
  TensorBoardTracker tracker(dir.path());
  tracker.go_back(position);
  tracker.scalar("a", 0, 5);
  EXPECT_EQ(list_dir(dir.path()).size(), 2u);
  const std::vector<Message> all = events(tracker.path());
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(only(all[1], 2), "5");
  EXPECT_EQ(only(parse(only(all[1], 7)), 1), "1");
  EXPECT_THROW(tracker.go_back(-1), Error);
}

TEST(TensorBoard, WritesEachRecordInOneCall) {
  const TempDir dir;
  FaultyFs recorded;
  const FsGuard guard(recorded);
  TensorBoardTracker tracker(dir.path());
  for (int i = 0; i < 10; ++i) tracker.scalar("a", 1, i);
  int writes = 0;
  for (const auto& call : recorded.calls()) writes += call.name == "write";
  EXPECT_EQ(writes, 11);
}

}  // namespace
}  // namespace pinion::accel
