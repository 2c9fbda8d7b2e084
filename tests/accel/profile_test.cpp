// SPDX-License-Identifier: Apache-2.0
// Traces: every op and span is there, inside of what surrounds it; nothing is recorded when nobody
// asked.
#include "pinion/accel/track/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "pinion/nn/layers.h"
#include "pinion/nn/ops.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/op_watch.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

void train_once(nn::Linear& layer) {
  const ProfileSpan step("step");
  const Tensor x = Tensor::full({4, 3}, 0.5);
  Tensor loss;
  {
    const ProfileSpan span("forward \"pass\"");
    loss = nn::mean(nn::relu(layer(x)));
  }
  backward(loss);
}

TEST(Profile, WritesSpansAndOpsThatNest) {
  const TempDir dir;
  nn::Linear layer(3, 2);
  train_once(layer);  // before: nothing
  EXPECT_EQ(op_watch.load(), nullptr);
  {
    Profile profile(dir / "trace.json", 3);
    EXPECT_THROW(Profile(dir / "other.json"), Error);
    train_once(layer);
    std::thread([] { const ProfileSpan span("elsewhere"); }).join();
    EXPECT_GE(profile.events(), 9);
  }
  EXPECT_EQ(op_watch.load(), nullptr);
  train_once(layer);  // after: nothing
  const auto trace = nlohmann::json::parse(read_file(dir / "trace.json", 1 << 20));
  std::map<std::string, std::vector<nlohmann::json>> by_kind;
  for (const auto& event : trace["traceEvents"]) {
    EXPECT_EQ(event["pid"], 3);
    if (event["ph"] == "X") by_kind[event["cat"]].push_back(event);
  }
  ASSERT_EQ(by_kind["span"].size(), 3u);
  EXPECT_EQ(by_kind["span"][0]["name"], "forward \"pass\"");
  const nlohmann::json forward = by_kind["span"][0], step = by_kind["span"][1];
  EXPECT_EQ(step["name"], "step");
  EXPECT_NE(by_kind["span"][2]["tid"], step["tid"]);
  ASSERT_EQ(by_kind["forward"].size(), by_kind["backward"].size());
  ASSERT_GE(by_kind["forward"].size(), 3u);
  const auto within = [](const nlohmann::json& inner, const nlohmann::json& outer) {
    const double slack = 0.002;  // us: times are rounded to a nanosecond
    const double begin = inner["ts"], end = begin + inner["dur"].get<double>();
    const double from = outer["ts"], to = from + outer["dur"].get<double>();
    return begin >= from - slack && end <= to + slack && begin <= end;
  };
  EXPECT_TRUE(within(forward, step));
  for (const auto& op : by_kind["forward"]) EXPECT_TRUE(within(op, forward)) << op;
  for (const auto& op : by_kind["backward"]) EXPECT_TRUE(within(op, step)) << op;
  EXPECT_EQ(by_kind["forward"].back()["name"], by_kind["backward"].front()["name"]);
}

TEST(Profile, GivesAnEventTheTimeThatNoneInsideOfItTook) {
  const TempDir dir;
  Profile profile(dir / "trace.json");
  {
    const ProfileSpan outer("outer");
    for (int i = 0; i < 3; ++i) const ProfileSpan inner("inner");
  }
  profile.stop();
  std::map<std::string, double> took;  // us
  const auto trace = nlohmann::json::parse(read_file(dir / "trace.json", 1 << 20));
  for (const auto& event : trace["traceEvents"])
    if (event["ph"] == "X") took[event["name"]] += event["dur"].get<double>();

  const std::vector<ProfileShare> shares = profile.shares();
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_GE(shares[0].seconds, shares[1].seconds);
  for (const ProfileShare& share : shares) {
    const bool outer = share.name == "outer";
    EXPECT_EQ(share.count, outer ? 1 : 3);
    const double own = took[share.name] - (outer ? took["inner"] : 0);
    EXPECT_NEAR(share.seconds * 1e6, own, 0.01);
  }
}

TEST(Profile, SaysWhenItCannotBeWritten) {
  const TempDir dir;
  Profile profile(dir / "none/trace.json");
  EXPECT_EQ(error_of([&] { profile.stop(); }).kind(), ErrorKind::io);
  profile.stop();  // once only
}

}  // namespace
}  // namespace pinion::accel
