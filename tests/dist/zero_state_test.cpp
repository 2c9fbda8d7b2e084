// SPDX-License-Identifier: Apache-2.0
// Sharded state: what any number of ranks saves, any number of ranks loads, at any stage.
#include <gmock/gmock.h>

#include <map>
#include <mutex>

#include "pinion/tests/support/golden_file.h"
#include "zero_testing.h"

namespace pinion::dist {
namespace {

using optim::StateSlice;
using pinion::testing::error_text;
using ::testing::HasSubstr;

struct Saved {
  std::vector<nn::NamedTensor> model, optimizer;
};

ZeroRun run_of(int stage, int ranks) {
  return {.stage = stage,
          .ranks = ranks,
          .make = making<optim::AdamW>(optim::AdamWOptions{.lr = 0.01, .amsgrad = true}),
          .same_data = true,
          .last_bias_skips = true};
}

// Two steps and a copy of everything, or two more after loading it.
Saved save(int stage, int ranks) {
  Saved out;
  run_local(ranks, [&](ProcessGroup& group) {
    ZeroLoop loop(run_of(stage, ranks), group);
    for (int i = 0; i < 2; ++i) loop.step(i);
    const std::vector<nn::NamedTensor> state =
        loop.zero() ? loop.zero()->state() : loop.optimizer().state();
    std::unique_ptr<Zero::Whole> whole;
    if (loop.zero()) whole = std::make_unique<Zero::Whole>(*loop.zero());
    if (group.rank() > 0) return;
    for (const nn::NamedTensor& t : loop.net().state())
      out.model.push_back({t.name, t.tensor.clone()});
    for (const nn::NamedTensor& t : state) out.optimizer.push_back({t.name, t.tensor.clone()});
  });
  return out;
}

// Reads slices out of whole tensors, as a checkpoint does out of its files.
optim::ReadSlice reader(const std::vector<nn::NamedTensor>& whole) {
  return [&whole](const StateSlice& slice) {
    for (const nn::NamedTensor& t : whole)
      if (t.name == slice.name)
        return t.tensor.alias({t.tensor.numel()})
            .rows(slice.offset, slice.offset + slice.values.numel());
    return Tensor();
  };
}

Named resume(const Saved& saved, int stage, int ranks, bool by_slices) {
  Named out;
  run_local(ranks, [&](ProcessGroup& group) {
    ZeroLoop loop(run_of(stage, ranks), group);
    if (by_slices && loop.zero()) {
      loop.optimizer().load_slices(reader(saved.optimizer));
      loop.zero()->load_parameter_slices(reader(saved.model));
    } else {
      loop.optimizer().load_state(saved.optimizer);
      std::unique_ptr<Zero::Whole> whole;
      if (loop.zero()) whole = std::make_unique<Zero::Whole>(*loop.zero());
      loop.net().load_state(saved.model);
    }
    for (int i = 2; i < 4; ++i) loop.step(i);
    const Named params = loop.params();
    if (group.rank() == 0) out = params;
  });
  return out;
}

TEST(ZeroState, LoadsOnAnyNumberOfRanksAtAnyStage) {
  const Saved plain = save(0, 1);
  const Named expected = resume(plain, 0, 1, false);
  for (const int stage : {1, 2, 3}) {
    const Saved two = save(stage, 2);
    ASSERT_EQ(two.optimizer.size(), plain.optimizer.size());
    for (size_t i = 0; i < plain.optimizer.size(); ++i) {
      EXPECT_EQ(two.optimizer[i].name, plain.optimizer[i].name);
      if (two.optimizer[i].tensor.dtype() == DType::f32) {
        EXPECT_EQ(two.optimizer[i].tensor.values<float>(),
                  plain.optimizer[i].tensor.values<float>())
            << plain.optimizer[i].name;
      }
    }
    for (const int ranks : {1, 2, 4})
      for (const int other : {0, 1, 2, 3}) {
        SCOPED_TRACE(::testing::Message()
                     << "stage " << stage << " to " << other << ", " << ranks << " ranks");
        EXPECT_EQ(resume(two, other, ranks, false), expected);
        if (other > 0) {
          EXPECT_EQ(resume(two, other, ranks, true), expected);
        }
      }
  }
}

TEST(ZeroState, SlicesOfAllRanksAreTheWholeOnce) {
  std::map<std::string, std::vector<int>> covered;
  std::mutex mutex;
  run_local(3, [&](ProcessGroup& group) {
    ZeroLoop loop(run_of(3, 3), group);
    loop.step(0);
    std::vector<StateSlice> slices = loop.optimizer().state_slices();
    for (StateSlice& s : loop.zero()->parameter_slices()) slices.push_back(std::move(s));
    const std::lock_guard lock(mutex);
    for (const StateSlice& s : slices) {
      if (s.shape.rank() == 0) continue;  // numbers are everywhere
      auto& counts = covered[s.name];
      counts.resize(static_cast<size_t>(s.shape.numel()));
      for (int64_t i = 0; i < s.values.numel(); ++i) ++counts[static_cast<size_t>(s.offset + i)];
    }
  });
  EXPECT_EQ(covered.size(), 8u * 4);  // eight parameters, three blocks of state and themselves
  for (const auto& [name, counts] : covered) EXPECT_THAT(counts, ::testing::Each(1)) << name;
}

TEST(ZeroState, KeepsTheStateOfAnOptimizerThatHasStepped) {
  Named expected = resume(save(0, 1), 0, 1, false);
  for (const int stage : {1, 2, 3}) {
    Named out;
    run_local(1, [&](ProcessGroup& group) {
      ZeroRun run = run_of(0, 1);
      ZeroLoop loop(run, group);
      for (int i = 0; i < 2; ++i) loop.step(i);
      loop.shard(stage);
      for (int i = 2; i < 4; ++i) loop.step(i);
      out = loop.params();
    });
    EXPECT_EQ(out, expected) << stage;
  }
}

TEST(ZeroState, RefusesWhatDoesNotFitAndChangesNothing) {
  const Saved saved = save(0, 1);
  run_local(2, [&](ProcessGroup& group) {
    ZeroLoop loop(run_of(2, 2), group);
    const auto refuses = [&](auto change, const char* text) {
      std::vector<nn::NamedTensor> state = saved.optimizer;
      change(state);
      const std::string error =
          error_text(ErrorKind::checkpoint, [&] { loop.optimizer().load_state(state); });
      EXPECT_THAT(error, HasSubstr(text));
      for (const StateSlice& s : loop.optimizer().state_slices())
        if (s.values.dtype() == DType::f32) {
          EXPECT_THAT(s.values.values<float>(), ::testing::Each(0)) << s.name;
        }
    };
    refuses(
        [](auto& s) {
          s[0].tensor = Tensor::zeros({70, 34});
        },
        "exp_avg.first.weight should have shape [70,33], got [70,34]");
    refuses([](auto& s) { s.pop_back(); }, "weight_decay.default is missing");
    refuses([](auto& s) { s[3].tensor = Tensor::of<int64_t>({-1}, {}); },
            "step.first.weight >= 0, got -1");
    EXPECT_THAT(error_text(ErrorKind::internal, [&] { (void)loop.optimizer().state(); }),
                HasSubstr("slices of its state only"));
  });
}

}  // namespace
}  // namespace pinion::dist
