// SPDX-License-Identifier: Apache-2.0
// Optimizers, arenas and clipping: PyTorch's trajectories, skipped parameters, state, and bad
// input.
#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <memory>

#include "pinion/nn/layers.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/sgd.h"
#include "pinion/runtime/autograd.h"
#include "pinion/tests/support/golden_file.h"

namespace pinion::optim {
namespace {

using ::testing::ElementsAre;
using testing::error_text;
using testing::GoldenFile;
using ::testing::HasSubstr;
using Params = std::vector<nn::NamedTensor>;

const GoldenFile& golden() {
  static const GoldenFile file("optim");
  return file;
}

Tensor converted(const Tensor& x, DType dtype) { return nn::cast(x.detach(), dtype).clone(); }

Tensor parameter(Tensor value) {
  value.requires_grad(true);
  return value;
}

std::vector<double> as_doubles(const Tensor& x) {
  return converted(x, DType::f64).values<double>();
}

// --- trajectories
// ------------------------------------------------------------------------------------

struct Case {
  const char* name;  // in tools/make_golden_optim.py, with the same options
  std::function<std::unique_ptr<Optimizer>(const Params&)> make;
};

template <class O, class Options>
Case a_case(const char* name, Options options) {
  return {name, [=](const Params& p) { return std::make_unique<O>(p, options); }};
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      a_case<Sgd>("sgd", SgdOptions{.lr = 0.05}),
      a_case<Sgd>("sgd_decay", SgdOptions{.lr = 0.05, .weight_decay = 0.1}),
      a_case<Sgd>("sgd_momentum", SgdOptions{.lr = 0.05, .momentum = 0.9}),
      a_case<Sgd>("sgd_dampening",
                  SgdOptions{.lr = 0.05, .momentum = 0.9, .dampening = 0.3, .weight_decay = 0.01}),
      a_case<Sgd>("sgd_nesterov",
                  SgdOptions{.lr = 0.05, .momentum = 0.8, .weight_decay = 0.01, .nesterov = true}),
      a_case<Adam>("adam", AdamOptions{.lr = 0.01}),
      a_case<Adam>(
          "adam_decay",
          AdamOptions{.lr = 0.01, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1}),
      a_case<Adam>("adam_amsgrad",
                   AdamOptions{.lr = 0.01, .beta1 = 0.7, .beta2 = 0.8, .amsgrad = true}),
      a_case<AdamW>("adamw", AdamWOptions{.lr = 0.01}),
      a_case<AdamW>(
          "adamw_amsgrad",
          AdamWOptions{
              .lr = 0.02, .beta1 = 0.7, .beta2 = 0.8, .weight_decay = 0.3, .amsgrad = true}),
  };
  return all;
}

Params start(DType dtype) {
  Params out;
  for (const char* name : {"a", "b"})
    out.push_back({name, parameter(converted(golden().load("start." + std::string(name)), dtype))});
  return out;
}

void set_gradients(Params& params, int64_t step, double factor = 1) {
  const std::vector<int64_t> without_b = golden().values<int64_t>("without_b");
  for (nn::NamedTensor& p : params) {
    const bool missing =
        p.name == "b" && std::find(without_b.begin(), without_b.end(), step) != without_b.end();
    const Tensor all = golden().load("grads." + p.name);  // [step, ..]
    const Tensor g = all.rows(step, step + 1).alias(p.tensor.shape()).clone() * factor;
    p.tensor.set_grad(missing ? Tensor() : converted(g, p.tensor.dtype()));
  }
}

void expect_trajectory(const Case& c, DType dtype, double tolerance, double grad_scale) {
  Params params = start(dtype);
  const std::unique_ptr<Optimizer> optimizer = c.make(params);
  const Tensor expected =
      golden().load(std::string(c.name) + (dtype == DType::f64 ? ".f64" : ".f32"));
  for (int64_t step = 0; step < expected.size(0); ++step) {
    optimizer->zero_grad();
    set_gradients(params, step, 1 / grad_scale);
    optimizer->step(grad_scale);
    const std::vector<double> row = as_doubles(expected.rows(step, step + 1));
    std::vector<double> got = as_doubles(params[0].tensor), b = as_doubles(params[1].tensor);
    got.insert(got.end(), b.begin(), b.end());
    ASSERT_EQ(got.size(), row.size());
    for (size_t i = 0; i < row.size(); ++i)
      ASSERT_NEAR(got[i], row[i], tolerance * std::max(1.0, std::fabs(row[i])))
          << c.name << ", " << name_of(dtype) << ", step " << step << ", element " << i;
  }
}

TEST(Optim, FollowsPyTorchForTwentySteps) {
  for (const Case& c : cases()) {
    expect_trajectory(c, DType::f64, 1e-13, 1);
    expect_trajectory(c, DType::f32, 1e-6, 1);
  }
}

TEST(Optim, FoldsAFactorOfTheGradients) {
  for (const Case& c : cases()) expect_trajectory(c, DType::f64, 1e-12, 1.0 / 1024);
}

TEST(Optim, EveryRungAndThreadCountFollows) {
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (isa > best_isa()) continue;
    const CpuContextGuard guard(2, isa);
    for (const Case& c : cases()) expect_trajectory(c, DType::f32, 1e-6, 1);
  }
}

// --- arenas
// ------------------------------------------------------------------------------------------

TEST(Arena, PadsEachTensorAndMovesItsContents) {
  Params params = {{"a", parameter(Tensor::full({3, 5}, 2))},
                   {"b", parameter(Tensor::full({}, 3))},
                   {"c", parameter(Tensor::full({16}, 4))}};
  params[2].tensor.set_grad(Tensor::full({16}, 7));
  Arena arena(params);
  EXPECT_EQ(arena.size(), 16 + 16 + 16);
  EXPECT_EQ(params[1].tensor.item(), 3);
  std::vector<float> expected(48, 0.0f);
  std::fill_n(expected.begin(), 15, 2.0f);
  expected[16] = 3;
  std::fill_n(expected.begin() + 32, 16, 4.0f);
  EXPECT_EQ(arena.params().values<float>(), expected);
  for (const nn::NamedTensor& p : params)
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p.tensor.view().data) % Arena::kAlignment, 0u);
  EXPECT_EQ(params[2].tensor.grad().view().data, arena.items()[2].grad.view().data);
  EXPECT_EQ(arena.grads().values<float>()[32], 7);
}

TEST(Arena, GivesBackWhereTheParametersLay) {
  constexpr int64_t kMiB = 1 << 20;
  trim({});
  const int64_t before = memory_stats({}).reserved;
  const Tensor w = parameter(Tensor::zeros({kMiB}));  // 4 MiB
  const Arena arena({{"w", w}});
  EXPECT_NEAR(static_cast<double>(memory_stats({}).reserved - before), 8.0 * kMiB, kMiB);
}

TEST(Arena, BackwardFillsTheGradientBlock) {
  Tensor w = parameter(Tensor::full({2}, 1)), u = parameter(Tensor::full({3}, 1));
  Arena arena({{"w", w}, {"u", u}});
  backward(nn::sum(w * 5.0));
  ASSERT_EQ(arena.ranges().size(), 1u);
  EXPECT_EQ(arena.ranges()[0].end_item, 1u);
  backward(nn::sum(w * 5.0) + nn::sum(u * 2.0));  // adds
  ASSERT_EQ(arena.ranges().size(), 1u);
  EXPECT_EQ(arena.ranges()[0].end, arena.size());
  std::vector<float> expected(32, 0.0f);
  expected[0] = expected[1] = 10;
  expected[16] = expected[17] = expected[18] = 2;
  EXPECT_EQ(arena.grads().values<float>(), expected);
}

TEST(Arena, RangesSplitAtMissingGradientsAndUnequalSteps) {
  std::vector<Tensor> t;
  Params params;
  for (int i = 0; i < 5; ++i) {
    t.push_back(parameter(Tensor::full({2}, 1)));
    params.push_back({std::string(1, static_cast<char>('a' + i)), t.back()});
  }
  Arena arena(params);
  const auto shape = [&] {
    std::vector<std::pair<size_t, size_t>> out;
    for (const Arena::Range& r : arena.ranges()) out.push_back({r.first_item, r.end_item});
    return out;
  };
  EXPECT_TRUE(shape().empty());
  for (int i : {0, 1, 3, 4}) t[static_cast<size_t>(i)].set_grad(Tensor::full({2}, 1));
  EXPECT_THAT(shape(), ElementsAre(std::pair(0, 2), std::pair(3, 5)));
  for (int i : {3, 4}) t[static_cast<size_t>(i)].set_grad({});
  arena.count_step();  // of the first two
  for (int i : {2, 3, 4}) t[static_cast<size_t>(i)].set_grad(Tensor::full({2}, 1));
  EXPECT_THAT(shape(), ElementsAre(std::pair(0, 2), std::pair(2, 5)));
  arena.zero_grad();
  EXPECT_TRUE(shape().empty());
}

TEST(Optim, SteadyStepsAskTheSystemForNothing) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the allocator keeps nothing under AddressSanitizer";
#endif
  nn::Mlp mlp({10, 32, 2});
  Adam adam(mlp.named_parameters());
  const Tensor x = Tensor::full({4, 10}, 0.5), target = Tensor::of<int64_t>({0, 1, 1, 0}, {4});
  const auto step = [&] {
    backward(nn::cross_entropy(mlp(x), target));
    adam.step();
    adam.zero_grad();
  };
  step();
  step();
  const int64_t calls = memory_stats({}).system_calls, live = memory_stats({}).live;
  for (int i = 0; i < 20; ++i) step();
  EXPECT_EQ(memory_stats({}).system_calls, calls);
  EXPECT_EQ(memory_stats({}).live, live);
}

TEST(Optim, TrainsThroughTheGraph) {
  Tensor w = parameter(Tensor::of<float>({5, -3}, {2}));
  const Tensor goal = Tensor::of<float>({1, 2}, {2});
  Adam adam({{"w", w}}, {.lr = 0.1});
  for (int i = 0; i < 300; ++i) {
    adam.zero_grad();
    backward(nn::mse_loss(w, goal));
    adam.step();
  }
  EXPECT_NEAR(w.values<float>()[0], 1, 1e-2);
  EXPECT_NEAR(w.values<float>()[1], 2, 1e-2);
}

TEST(Optim, GroupsHaveTheirOwnOptionsAndTypes) {
  Tensor a = parameter(Tensor::full({2}, 1)), b = parameter(Tensor::full({2}, 1, DType::f64));
  Tensor c = parameter(Tensor::full({2}, 1)), frozen = Tensor::full({2}, 1);
  Sgd sgd({{"first", {{"a", a}, {"b", b}}, {.lr = 0.5}},
           {"second", {{"c", c}, {"frozen", frozen}}, {.lr = 0.25, .momentum = 0.9}}});
  EXPECT_EQ(sgd.group_count(), 2u);
  EXPECT_EQ(sgd.arenas().size(), 3u);  // f32 and f64 of the first, f32 of the second
  EXPECT_EQ(sgd.group_name(1), "second");
  backward(nn::sum(a) + nn::sum(c));
  backward(nn::sum(b));
  sgd.step();
  EXPECT_EQ(a.values<float>()[0], 0.5f);
  EXPECT_EQ(b.values<double>()[0], 0.5);
  EXPECT_EQ(c.values<float>()[0], 0.75f);
  EXPECT_EQ(frozen.values<float>()[0], 1.0f);
  sgd.set_lr(0, 0);
  sgd.step();
  EXPECT_EQ(a.values<float>()[0], 0.5f);
  EXPECT_NEAR(c.values<float>()[0], 0.75f - 0.25f * 1.9f, 1e-6);
}

// --- state
// -------------------------------------------------------------------------------------------

std::vector<nn::NamedTensor> copies(Optimizer& o) {
  std::vector<nn::NamedTensor> out = o.state();
  for (nn::NamedTensor& t : out) t.tensor = t.tensor.clone();
  return out;
}

TEST(Optim, ResumesFromItsStateBitForBit) {
  for (const Case& c : cases()) {
    Params straight = start(DType::f32);
    const auto optimizer = c.make(straight);
    std::vector<nn::NamedTensor> state;
    Params resumed;
    std::unique_ptr<Optimizer> other;
    for (int64_t step = 0; step < 20; ++step) {
      if (step == 8) {
        resumed = {{"a", parameter(straight[0].tensor.clone())},
                   {"b", parameter(straight[1].tensor.clone())}};
        optimizer->set_lr(0, 0.03);
        state = copies(*optimizer);
        other = c.make(resumed);
        other->load_state(state);
        EXPECT_EQ(other->lr(), 0.03);
      }
      set_gradients(straight, step);
      optimizer->step();
      if (!other) continue;
      set_gradients(resumed, step);
      other->step();
    }
    for (size_t i = 0; i < 2; ++i)
      EXPECT_EQ(straight[i].tensor.values<float>(), resumed[i].tensor.values<float>()) << c.name;
  }
}

TEST(Optim, StateIsNamedByParameter) {
  Params params = start(DType::f32);
  Adam adam(params, {.weight_decay = 0.5, .amsgrad = true});
  set_gradients(params, 0);  // without b
  adam.step();
  std::vector<std::string> names;
  for (const nn::NamedTensor& t : adam.state()) names.push_back(t.name);
  EXPECT_THAT(names, ElementsAre("exp_avg.a", "exp_avg_sq.a", "max_exp_avg_sq.a", "step.a",
                                 "exp_avg.b", "exp_avg_sq.b", "max_exp_avg_sq.b", "step.b",
                                 "lr.default", "weight_decay.default"));
  EXPECT_EQ(adam.state()[0].tensor.shape(), Shape({3, 5}));
  EXPECT_EQ(adam.state()[3].tensor.item(), 1);
  EXPECT_EQ(adam.state()[7].tensor.item(), 0);
  EXPECT_EQ(adam.state()[9].tensor.item(), 0.5);
}

TEST(Optim, RefusesStateThatDoesNotFitAndChangesNothing) {
  Params params = start(DType::f32);
  Adam adam(params);
  set_gradients(params, 1);
  adam.step();
  const std::vector<nn::NamedTensor> good = copies(adam);
  const auto refused = [&](size_t at, Tensor t) {
    std::vector<nn::NamedTensor> bad = good;
    for (nn::NamedTensor& x : bad)
      if (x.tensor.dtype() == DType::f32) x.tensor = Tensor::full(x.tensor.shape(), 9);
    bad[at].tensor = std::move(t);
    const std::string text = error_text(ErrorKind::checkpoint, [&] { adam.load_state(bad); });
    const std::vector<nn::NamedTensor> now = adam.state();
    for (size_t i = 0; i < now.size(); ++i)
      EXPECT_EQ(as_doubles(now[i].tensor), as_doubles(good[i].tensor)) << now[i].name;
    return text;
  };
  EXPECT_THAT(refused(0, Tensor::zeros({5, 3})), HasSubstr("exp_avg.a should have shape [3,5]"));
  EXPECT_THAT(refused(2, Tensor::of<int64_t>({-1}, {})), HasSubstr("expected step.a >= 0, got -1"));
  EXPECT_THAT(refused(6, Tensor::full({}, NAN, DType::f64)), HasSubstr("lr.default"));
  EXPECT_THAT(refused(6, Tensor::full({}, -1, DType::f64)), HasSubstr("lr.default"));
  std::vector<nn::NamedTensor> fewer = good;
  fewer.pop_back();
  EXPECT_THAT(error_text(ErrorKind::checkpoint, [&] { adam.load_state(fewer); }),
              HasSubstr("weight_decay.default is missing"));
  Sgd sgd(start(DType::f32));
  EXPECT_THAT(error_text(ErrorKind::checkpoint, [&] { sgd.load_state(good); }), HasSubstr("Sgd: "));
}

// --- bad input
// ---------------------------------------------------------------------------------------

TEST(Optim, NamesWhatIsWrong) {
  const auto text = [](auto f) { return error_text(ErrorKind::internal, f); };
  const Params ok = {{"w", parameter(Tensor::zeros({2}))}};
  EXPECT_THAT(text([&] { Adam adam(ok, {.lr = -1}); }),
              HasSubstr("Adam: expected a finite lr >= 0"));
  EXPECT_THAT(text([&] { Adam adam(ok, {.lr = NAN}); }), HasSubstr("lr"));
  EXPECT_THAT(text([&] { Adam adam(ok, {.beta1 = 1}); }), HasSubstr("beta1 in [0, 1), got 1"));
  EXPECT_THAT(text([&] { Adam adam(ok, {.beta2 = NAN}); }), HasSubstr("beta2"));
  EXPECT_THAT(text([&] { Adam adam(ok, {.eps = -1}); }), HasSubstr("eps"));
  EXPECT_THAT(text([&] { AdamW adam(ok, {.weight_decay = -1}); }),
              HasSubstr("AdamW: expected a finite weight_decay >= 0, got -1"));
  EXPECT_THAT(text([&] { Sgd sgd(ok, {.momentum = -1}); }), HasSubstr("momentum"));
  EXPECT_THAT(text([&] { Sgd sgd(ok, {.nesterov = true}); }), HasSubstr("nesterov expects"));
  EXPECT_THAT(text([&] { Sgd sgd(Params{}); }), HasSubstr("expected parameters in group default"));
  EXPECT_THAT(text([&] { Sgd sgd(std::vector<Sgd::Group>{}); }), HasSubstr("at least one group"));
  EXPECT_THAT(text([&] { Sgd sgd(Params{{"w", Tensor()}}); }), HasSubstr("undefined"));
  EXPECT_THAT(text([&] {
                Sgd sgd(Params{{"w", Tensor::zeros({2}, DType::i64)}});
              }),
              HasSubstr("floating type for parameter w, got i64"));
  EXPECT_THAT(text([&] { Sgd sgd(Params{{"w", nn::relu(ok[0].tensor)}}); }), HasSubstr("a leaf"));
  EXPECT_THAT(text([&] {
                Sgd sgd(Params{ok[0], {"v", ok[0].tensor}});
              }),
              HasSubstr("shares its memory"));
  EXPECT_THAT(text([&] {
                Sgd sgd(Params{ok[0], {"w", Tensor::zeros({1})}});
              }),
              HasSubstr("two parameters w"));
  EXPECT_THAT(text([&] {
                Sgd sgd({{"g", ok, {}}, {"g", {{"v", Tensor::zeros({1})}}, {}}});
              }),
              HasSubstr("two named g"));
  Sgd sgd(ok);
  EXPECT_THAT(text([&] { sgd.step(INFINITY); }), HasSubstr("grad_scale"));
  EXPECT_THAT(text([&] { sgd.multiply_gradients(NAN); }), HasSubstr("factor"));
  EXPECT_THAT(text([&] { (void)sgd.lr(1); }), HasSubstr("a group below 1, got 1"));
  EXPECT_THAT(text([&] { sgd.set_lr(2, 0.1); }), HasSubstr("a group below 1"));
}

TEST(Optim, NoticesASecondOptimizerOfTheSameParameters) {
  Params params = {{"w", parameter(Tensor::zeros({2}))}};
  Sgd first(params), second(params, {.lr = 1});
  backward(nn::sum(params[0].tensor));
  EXPECT_THAT(error_text(ErrorKind::internal, [&] { first.step(); }),
              HasSubstr("parameter w was moved away"));
  second.step();
  EXPECT_EQ(params[0].tensor.values<float>()[0], -1);
}

}  // namespace
}  // namespace pinion::optim
