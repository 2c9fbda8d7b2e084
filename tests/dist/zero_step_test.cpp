// SPDX-License-Identifier: Apache-2.0
// ZeRO's step that reduces, updates and gathers in one walk: the bits of the step by collectives,
// which clipping by a huge norm asks for, and what ranks hear when one of them does otherwise.
#include <gmock/gmock.h>
#include <signal.h>

#include <thread>

#include "dist_testing.h"
#include "zero_testing.h"

namespace pinion::dist {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr auto kNothing = [](optim::Optimizer&) {};
constexpr auto kClip = [](optim::Optimizer& o) { optim::clip_grad_norm_(o, 1e30); };

// Pieces of several chunks of a walk, a parameter that nobody uses and one that rank 0 uses alone
// in odd steps.
struct Wide final : nn::Module {
  nn::Linear first, second;
  Tensor unused = Tensor::full({19}, 2), some = Tensor::full({50}, 3);

  explicit Wide(int64_t width, int rank = 0) : first(33, width), second(width, 50) {
    for (Tensor* t : {&unused, &some}) t->requires_grad(true);
    int64_t seed = 10 * rank;
    for (nn::Linear* layer : {&first, &second})
      for (Tensor* t : {&layer->weight, &layer->bias}) t->copy_(waves(t->shape(), ++seed, 0.2f));
  }
  void fields(nn::Fields& f) override {
    f("first", first);
    f("unused", unused);
    f("second", second);
    f("some", some);
  }
};

struct Trained {
  Wide net;
  std::unique_ptr<optim::Optimizer> optimizer;
  Zero zero;

  Trained(ProcessGroup& group, const MakeOptimizer& make, int64_t width = 1200)
      : net(width, group.rank()),
        optimizer(make(net)),
        zero(net, *optimizer, group, {.stage = 1, .bucket_bytes = 400'000}) {}

  void backward(int step, int rank) {
    const Tensor y = net.second(net.first(waves({3, 33}, 10 * step + rank, 1), Activation::relu));
    Tensor loss = nn::mean(y * y);
    if (step % 2 == 0 || rank == 0) loss = loss + nn::mean(net.some * net.some);
    pinion::backward(loss);
  }
  // This rank's, as whoever saves it sees it.
  Named contents() {
    Named out;
    for (const nn::NamedTensor& p : net.named_parameters())
      out.emplace_back(p.name, p.tensor.values<float>());
    for (const optim::StateSlice& s : optimizer->state_slices())
      if (s.values.dtype() == DType::f32) out.emplace_back(s.name, s.values.values<float>());
    return out;
  }
};

void expect_same(const Named& a, const Named& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i] == b[i]) << a[i].first << " differs";
}

int64_t reductions(const ProcessGroup& group) {
  const std::string calls = group.recent_calls();
  int64_t count = 0;
  for (size_t at = 0; (at = calls.find("reduce_scatter", at)) != std::string::npos; ++at) ++count;
  return count;
}

void expect_equal_weights(ProcessGroup& group, Wide& net) {
  for (const Tensor& p : net.parameters()) {
    Tensor all({group.size() * p.numel()});
    group.all_gather(all, p.alias({p.numel()})).wait();
    for (int r = 0; r < group.size(); ++r)
      EXPECT_EQ(all.rows(r * p.numel(), (r + 1) * p.numel()).values<float>(), p.values<float>());
  }
}

const std::vector<MakeOptimizer> kOptimizers = {
    making<optim::Adam>(optim::AdamOptions{.lr = 0.01, .weight_decay = 0.1}),
    making<optim::AdamW>(optim::AdamWOptions{.lr = 0.01, .amsgrad = true}),
    making<optim::Sgd>(optim::SgdOptions{.lr = 0.1, .momentum = 0.9})};

class ZeroStep : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(On, ZeroStep, ::testing::Values("local", "shm"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(ZeroStep, HasTheBitsOfTheStepByCollectives) {
  for (const int ranks : {1, 2, 4})
    for (const MakeOptimizer& make : kOptimizers)
      run_ranks(GetParam(), ranks, [&](ProcessGroup& group) {
        Trained walks(group, make), calls(group, make);
        for (int step = 0; step < 4; ++step) {
          const int64_t before = reductions(group);
          walks.backward(step, group.rank());
          walks.optimizer->step();
          EXPECT_EQ(reductions(group) == before, ranks > 1);
          calls.backward(step, group.rank());
          optim::clip_grad_norm_(*calls.optimizer, 1e30);
          calls.optimizer->step();
          EXPECT_GT(reductions(group), before);
          for (Trained* t : {&walks, &calls}) t->optimizer->zero_grad();
        }
        expect_same(walks.contents(), calls.contents());
        expect_equal_weights(group, walks.net);
      });
}

// The walk leaves the gradients as they were, so that whatever comes next can start from them.
TEST_P(ZeroStep, MayFollowAnotherOnTheSameGradients) {
  run_ranks(GetParam(), 2, [](ProcessGroup& group) {
    Trained walks(group, kOptimizers[0]), calls(group, kOptimizers[0]);
    const auto steps = [&](Trained& t, const std::function<void(optim::Optimizer&)>& first) {
      t.backward(0, group.rank());
      first(*t.optimizer);
      t.optimizer->step();
      t.optimizer->step();
      const double norm = optim::clip_grad_norm_(*t.optimizer, 0.01);
      t.optimizer->step();
      t.optimizer->step();
      return norm;
    };
    EXPECT_EQ(steps(walks, kNothing), steps(calls, kClip));
    expect_same(walks.contents(), calls.contents());
  });
}

TEST_P(ZeroStep, WalksOnAllThreadsOfARank) {
  run_ranks(GetParam(), 2, [](ProcessGroup& group) {
    const CpuContextGuard threads(3);
    Trained walks(group, kOptimizers[0], 4000), calls(group, kOptimizers[0], 4000);
    for (Trained* t : {&walks, &calls}) {
      t->backward(0, group.rank());
      if (t == &calls) optim::clip_grad_norm_(*t->optimizer, 1e30);
      t->optimizer->step();
    }
    expect_same(walks.contents(), calls.contents());
  });
}

// Adam that does something else on rank 1 before each chunk of a walk.
struct Distracted final : optim::Adam {
  std::function<void()> distraction;
  Distracted(nn::Module& m, std::function<void()> f)
      : Adam(m.named_parameters(), {.lr = 0.01}), distraction(std::move(f)) {}
  void update(size_t group, Device device, const Views& views, int64_t steps,
              double scale) override {
    distraction();
    Adam::update(group, device, views, steps, scale);
  }
  static MakeOptimizer on(int rank, const std::function<void()>& f) {
    return [=](nn::Module& m) {
      return std::make_unique<Distracted>(
          m, rank == 1 ? f : [] {});
    };
  }
};

// Rank 1 is late wherever the walk must not have begun, or gone on, without it.
TEST_P(ZeroStep, WaitsForWhoeverStillReads) {
  run_ranks(GetParam(), 2, [](ProcessGroup& group) {
    const int rank = group.rank();
    const auto nap = [] { std::this_thread::sleep_for(milliseconds(3)); };
    Trained late(group, Distracted::on(rank, nap));
    Trained calls(group, making<optim::Adam>(optim::AdamOptions{.lr = 0.01}));
    for (int step = 0; step < 3; ++step) {
      calls.backward(step, rank);
      optim::clip_grad_norm_(*calls.optimizer, 1e30);
      calls.optimizer->step();
      calls.optimizer->zero_grad();
    }
    for (int step = 0; step < 3; ++step) {
      if (rank == 1) std::this_thread::sleep_for(milliseconds(20));
      late.backward(step, rank);
      late.optimizer->step();
      late.optimizer->zero_grad();
    }
    expect_same(late.contents(), calls.contents());
  });
}

TEST_P(ZeroStep, ARankThatDoesOtherwiseIsNamed) {
  struct Case {
    const char* text;
    std::function<void(Trained& odd, Trained& other)> f;  // of rank 1; rank 0 makes a step
  };
  const Case cases[] = {
      {"reduce_scatter(mean, f32, ", [](Trained& t, Trained&) { kClip(*t.optimizer); }},
      {"reduce_scatter(mean, f32, ", [](Trained& t, Trained&) { t.optimizer->zero_grad(); }},
      {"barrier(", [](Trained&, Trained& other) { other.optimizer->step(); }},
      {"broadcast(f32, 1, root 0)", [](Trained&, Trained&) {}}};
  for (const Case& c : cases)
    run_ranks(GetParam(), 2, [&](ProcessGroup& group) {
      group.set_timeout(std::chrono::seconds(20));
      Trained net(group, kOptimizers[0]), other(group, kOptimizers[0], 1000);
      net.backward(0, group.rank());
      std::string text;
      const auto body = [&] {
        if (group.rank() == 0) return net.optimizer->step();
        c.f(net, other);
        group.broadcast(Tensor::zeros({1}), 0).wait();
      };
      EXPECT_EQ(kind_of_error(body, &text), static_cast<int>(ErrorKind::desync));
      EXPECT_THAT(text, HasSubstr(std::string("rank 1 called ") + c.text));
    });
}

TEST_P(ZeroStep, ARankThatDoesNotComeIsNamed) {
  run_ranks(GetParam(), 2, [&](ProcessGroup& group) {
    Trained net(group, kOptimizers[0]);
    net.backward(0, group.rank());
    group.set_timeout(milliseconds(group.rank() == 0 ? 60 : 60'000));
    std::string text;
    const auto body = [&] {
      if (group.rank() == 1) std::this_thread::sleep_for(milliseconds(400));
      net.optimizer->step();
    };
    EXPECT_EQ(kind_of_error(body, &text), static_cast<int>(ErrorKind::hang));
    EXPECT_THAT(text, HasSubstr("for rank 1"));
  });
}

// Before its step, and while it writes into the others' memory.
TEST(ZeroStepOnShm, ADeadRankIsNamed) {
  for (const bool in_walk : {false, true}) {
    const auto statuses = run_processes(ShmSegment::create(2), [&](ProcessGroup& group) {
      Trained net(group, Distracted::on(group.rank(), [] { raise(SIGKILL); }));
      net.backward(0, group.rank());
      if (group.rank() == 1 && !in_walk) raise(SIGKILL);
      std::string text;
      EXPECT_EQ(kind_of_error([&] { net.optimizer->step(); }, &text),
                static_cast<int>(ErrorKind::peer_lost));
      EXPECT_THAT(text, HasSubstr(in_walk ? "waited in barrier(" : "waited in all_reduce("));
    });
    EXPECT_EQ(statuses[0], 0);
    EXPECT_TRUE(WIFSIGNALED(statuses[1]));
  }
}

}  // namespace
}  // namespace pinion::dist
