// SPDX-License-Identifier: Apache-2.0
// ZeRO: every stage gives the bits of plain data parallelism, whatever the optimizer.
#include <gmock/gmock.h>

#include <mutex>

#include "zero_testing.h"

namespace pinion::dist {
namespace {

using testing::HasSubstr;

ZeroOutcome train(const ZeroRun& run) {
  std::vector<ZeroOutcome> all(static_cast<size_t>(run.ranks));
  run_local(run.ranks, [&](ProcessGroup& group) {
    ZeroOutcome& mine = all[static_cast<size_t>(group.rank())];
    ZeroLoop loop(run, group);
    for (int i = 0; i < run.steps; ++i) loop.step(i, &mine);
    mine.params = loop.params();
    mine.scale = loop.scale();
  });
  for (const ZeroOutcome& o : all) {
    EXPECT_EQ(o.params, all[0].params) << "the ranks differ";
    EXPECT_EQ(o.norms, all[0].norms);
    EXPECT_EQ(o.scale, all[0].scale);
  }
  return all[0];
}

void expect_same(ZeroRun run) {
  for (const int ranks : {1, 2, 3, 4}) {
    run.ranks = ranks;
    run.stage = 0;
    const ZeroOutcome plain = train(run);
    for (const int stage : {1, 2, 3}) {
      run.stage = stage;
      SCOPED_TRACE(testing::Message() << "stage " << stage << ", " << ranks << " ranks");
      const ZeroOutcome zero = train(run);
      for (size_t i = 0; i < plain.params.size(); ++i)
        EXPECT_EQ(zero.params[i], plain.params[i]) << plain.params[i].first;
      EXPECT_EQ(zero.norms, plain.norms);
      EXPECT_EQ(zero.scale, plain.scale);
    }
  }
}

TEST(Zero, AdamIsThatOfDataParallelism) {
  expect_same({.make = making<optim::Adam>(optim::AdamOptions{.lr = 0.01, .weight_decay = 0.1})});
}
TEST(Zero, AmsgradIsThatOfDataParallelism) {
  expect_same({.make = making<optim::Adam>(optim::AdamOptions{.lr = 0.01, .amsgrad = true})});
}
TEST(Zero, AdamWIsThatOfDataParallelism) {
  expect_same({.make = making<optim::AdamW>(optim::AdamWOptions{.lr = 0.01})});
}
TEST(Zero, SgdIsThatOfDataParallelism) {
  expect_same({.make = making<optim::Sgd>(optim::SgdOptions{.lr = 0.1, .momentum = 0.9})});
}
TEST(Zero, ClippingIsThatOfDataParallelism) {
  expect_same(
      {.make = making<optim::Sgd>(optim::SgdOptions{.lr = 0.1, .momentum = 0.9}), .clip = 0.05});
}
TEST(Zero, LossScalingIsThatOfDataParallelism) {
  expect_same({.steps = 5,
               .make = making<optim::AdamW>(optim::AdamWOptions{.lr = 0.01}),
               .clip = 0.05,
               .scaled = true,
               .infinite_step = 2});
}
TEST(Zero, GradientsOfSomeRanksOnlyCountEverywhere) {
  expect_same(
      {.make = making<optim::Adam>(optim::AdamOptions{.lr = 0.01}), .last_bias_skips = true});
}

}  // namespace
}  // namespace pinion::dist
