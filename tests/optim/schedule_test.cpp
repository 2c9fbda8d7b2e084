// SPDX-License-Identifier: Apache-2.0
// Schedules against PyTorch's learning rates, their ends, and the Scheduler's one number of state.
#include "pinion/optim/schedule.h"

#include <gmock/gmock.h>

#include <cmath>

#include "pinion/optim/sgd.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::optim {
namespace {

using testing::error_text;
using testing::GoldenFile;
using ::testing::HasSubstr;

Sgd optimizer_of(std::initializer_list<double> rates) {
  std::vector<Sgd::Group> groups;
  for (double lr : rates) {
    const std::string name = std::to_string(groups.size());
    groups.push_back({name, {{"w" + name, Tensor::zeros({1})}}, {.lr = lr}});
  }
  return Sgd(groups);
}

struct Case {
  const char* name;  // in tools/make_golden_optim.py
  Schedule schedule;
};

TEST(Schedule, FollowsPyTorch) {
  const GoldenFile golden("optim_schedules");
  const Case cases[] = {
      {"step", step_lr(3, 0.5)},
      {"multi_step", multi_step_lr({2, 5, 5, 11}, 0.3)},
      {"cosine", cosine_annealing(8, 0.01)},
      {"lambda", lambda_lr([](int64_t t) { return std::pow(0.9, static_cast<double>(t)); })},
      {"linear_warmup", linear_warmup(4, 20)},
      {"one_cycle", one_cycle({.total = 50})},
      {"one_cycle_linear",
       one_cycle({.total = 37, .pct_start = 0.25, .anneal = Anneal::linear, .div_factor = 10})},
      {"one_cycle_three",
       one_cycle({.total = 40, .pct_start = 0.4, .final_div_factor = 100, .three_phase = true})},
      {"one_cycle_short", one_cycle({.total = 3, .pct_start = 0.1})},
  };
  for (const Case& c : cases) {
    const std::vector<double> expected = golden.values<double>(c.name);
    Sgd sgd = optimizer_of({0.1});
    Scheduler scheduler(sgd, c.schedule);
    for (size_t t = 0; t < expected.size(); ++t) {
      EXPECT_NEAR(sgd.lr(), expected[t], 1e-14) << c.name << " at update " << t;
      scheduler.step();
    }
  }
}

TEST(Schedule, StaysDefinedBeyondItsEnd) {
  const Schedule cycle = one_cycle({.total = 10});
  EXPECT_EQ(cycle(1, 9), cycle(1, 1000));
  EXPECT_NEAR(cycle(1, 9), 1 / 25e4, 1e-18);
  EXPECT_EQ(one_cycle({.total = 1, .pct_start = 1})(1, 0), 1);
  EXPECT_EQ(linear_warmup(0, 0)(0.5, 100), 0.5);
  EXPECT_EQ(linear_warmup(3, 10)(0.5, 10), 0);
  EXPECT_EQ(linear_warmup(3, 10)(0.5, 11), 0);
  EXPECT_EQ(linear_warmup(5, 5)(0.5, 5), 0);
  EXPECT_EQ(constant_lr()(0.5, 7), 0.5);
}

TEST(Schedule, WarmupCosineClimbsThenFalls) {
  const Schedule s = warmup_cosine(4, 12, 0.1);
  EXPECT_EQ(s(1, 0), 0);
  EXPECT_EQ(s(1, 2), 0.5);
  EXPECT_EQ(s(1, 4), 1);
  EXPECT_NEAR(s(1, 8), 0.55, 1e-15);
  EXPECT_NEAR(s(1, 12), 0.1, 1e-15);
  EXPECT_NEAR(s(1, 100), 0.1, 1e-15);
}

TEST(Scheduler, SetsEveryGroupByItsOwnRate) {
  Sgd sgd = optimizer_of({0.1, 1});
  Scheduler one(sgd, step_lr(1, 0.5));
  one.step();
  EXPECT_DOUBLE_EQ(sgd.lr(0), 0.05);
  EXPECT_DOUBLE_EQ(sgd.lr(1), 0.5);
  EXPECT_EQ(sgd.base_lr(1), 1);
  Sgd other = optimizer_of({0.1, 1});
  Scheduler two(other, {constant_lr(), step_lr(1, 0.5)});
  two.step();
  EXPECT_DOUBLE_EQ(other.lr(0), 0.1);
  EXPECT_DOUBLE_EQ(other.lr(1), 0.5);
}

TEST(Scheduler, ResumesFromTheCountOfUpdates) {
  Sgd a = optimizer_of({0.1}), b = optimizer_of({0.1});
  Scheduler straight(a, one_cycle({.total = 30})), resumed(b, one_cycle({.total = 30}));
  for (int i = 0; i < 17; ++i) straight.step();
  resumed.set_updates(straight.updates());
  for (int i = 17; i < 30; ++i) {
    EXPECT_EQ(a.lr(), b.lr());
    straight.step();
    resumed.step();
  }
}

TEST(Scheduler, TakesBaseRatesFromTheOptionsNotFromLoadedState) {
  Sgd a = optimizer_of({0.1}), b = optimizer_of({0.1});
  Scheduler straight(a, step_lr(2, 0.5));
  for (int i = 0; i < 5; ++i) straight.step();
  b.load_state(a.state());
  EXPECT_DOUBLE_EQ(b.lr(), 0.025);
  Scheduler resumed(b, step_lr(2, 0.5));
  resumed.set_updates(5);
  EXPECT_EQ(b.lr(), a.lr());
}

TEST(Schedule, NamesWhatIsWrong) {
  const auto text = [](auto f) { return error_text(ErrorKind::internal, f); };
  EXPECT_THAT(text([] { step_lr(0); }), HasSubstr("step_lr: expected step_size > 0, got 0"));
  EXPECT_THAT(text([] { step_lr(1, NAN); }), HasSubstr("gamma"));
  EXPECT_THAT(text([] { multi_step_lr({3, 2}); }), HasSubstr("increasing milestones"));
  EXPECT_THAT(text([] { cosine_annealing(0); }), HasSubstr("t_max > 0"));
  EXPECT_THAT(text([] { cosine_annealing(1, -1); }), HasSubstr("eta_min"));
  EXPECT_THAT(text([] { linear_warmup(-1); }), HasSubstr("warmup >= 0, got -1"));
  EXPECT_THAT(text([] { linear_warmup(5, 3); }), HasSubstr("total 0 or >= warmup 5, got 3"));
  EXPECT_THAT(text([] { warmup_cosine(5, 5); }), HasSubstr("total > warmup 5, got 5"));
  EXPECT_THAT(text([] { one_cycle({}); }), HasSubstr("total > 0"));
  EXPECT_THAT(text([] { one_cycle({.total = 3, .pct_start = 1.1}); }), HasSubstr("pct_start"));
  EXPECT_THAT(text([] { one_cycle({.total = 3, .div_factor = 0}); }), HasSubstr("div_factor"));
  EXPECT_THAT(text([] { lambda_lr(nullptr); }), HasSubstr("expected a function"));
  Sgd sgd = optimizer_of({0.1, 1});
  EXPECT_THAT(text([&] { Scheduler s(sgd, Schedule()); }), HasSubstr("expected a schedule"));
  EXPECT_THAT(text([&] { Scheduler s(sgd, std::vector<Schedule>(3, constant_lr())); }),
              HasSubstr("one for each of 2 groups, got 3"));
  Scheduler s(sgd, constant_lr());
  EXPECT_THAT(text([&] { s.set_updates(-1); }), HasSubstr("updates >= 0, got -1"));
  EXPECT_THAT(text([&] { Scheduler bad(sgd, lambda_lr([](int64_t) { return NAN; })); }),
              HasSubstr("lr"));
}

}  // namespace
}  // namespace pinion::optim
