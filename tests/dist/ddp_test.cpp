// SPDX-License-Identifier: Apache-2.0
// Laws of data-parallel training: W ranks with b samples each end where one rank with W b ends, all
// ranks have the same bits, and whatever would break that is an error with a name in it.
#include "ddp_testing.h"

namespace pinion::testing {
namespace {

using dist::DdpOptions;
using dist::ProcessGroup;
using dist::Unused;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kSteps = 5;
constexpr double kClose = 1e-6;

Tensor loss_of(const DdpNet& net, int64_t begin, int64_t n, bool with_branch = true) {
  const Batch b = batch_of(begin, n);
  return nn::cross_entropy(net(b.x, with_branch), b.y);
}

Weights alone(int64_t global_batch, int steps = kSteps) {
  return run_alone(
      steps, [&](DdpNet& net, int s) { return loss_of(net, s * global_batch, global_batch); });
}

void expect_equal_and_close(const std::vector<Weights>& ranks, const Weights& expected) {
  for (const Weights& w : ranks) EXPECT_EQ(w, ranks[0]);  // bit by bit
  EXPECT_LE(distance(expected, ranks[0]), kClose);
}

class DdpLaw : public ::testing::TestWithParam<int> {};

TEST_P(DdpLaw, RanksWithPartsEqualOneWithAll) {
  const int ranks = GetParam();
  const int64_t batch = 24 / ranks;
  for (const bool overlap : {true, false}) {
    DdpOptions options = small_buckets();
    options.overlap = overlap;
    const auto weights =
        run_ranks(ranks, options, [&](ProcessGroup& group, DdpNet& net, auto& sgd, auto& ddp) {
          EXPECT_GE(ddp.reducer().buckets().size(), 3u);
          for (int s = 0; s < kSteps; ++s) {
            const Batch b = batch_of(s * 24 + group.rank() * batch, batch);
            ddp.backward(nn::cross_entropy(ddp(b.x), b.y));
            EXPECT_TRUE(net.first.weight.grad().defined());
            sgd.step();
            sgd.zero_grad();
          }
        });
    expect_equal_and_close(weights, alone(24));
  }
}

TEST_P(DdpLaw, AccumulationEqualsTheBigBatch) {
  const int ranks = GetParam();
  const int64_t batch = 24 / ranks / 2;  // two micro-batches
  const auto weights =
      run_ranks(ranks, small_buckets(), [&](ProcessGroup& group, DdpNet&, auto& sgd, auto& ddp) {
        for (int s = 0; s < kSteps; ++s) {
          const auto part = [&](int k) {
            const Batch b = batch_of(s * 24 + (group.rank() * 2 + k) * batch, batch);
            ddp.backward(nn::cross_entropy(ddp(b.x), b.y) * 0.5);
          };
          {
            const auto local = ddp.no_sync();
            part(0);
          }
          part(1);
          sgd.step();
          sgd.zero_grad();
        }
      });
  expect_equal_and_close(weights, alone(24));
}

// Micro-batches of any size on any rank, some of them empty on a rank: the mean over all samples.
TEST_P(DdpLaw, WeightsMakeUnequalMicroBatchesExact) {
  const int ranks = GetParam();
  DdpOptions options = small_buckets();
  options.weighted = true;
  const auto weights =
      run_ranks(ranks, options, [&](ProcessGroup& group, DdpNet&, auto& sgd, auto& ddp) {
        for (int s = 0; s < kSteps; ++s) {
          int64_t at = s * 30;
          for (int r = 0; r < ranks; ++r)
            for (int k = 0; k < 2; ++k) {
              const bool last = r + 1 == ranks && k == 1;
              const int64_t n = last ? (s + 1) * 30 - at : 1 + (r + k + s) % 3;
              if (r == group.rank()) {
                std::optional<dist::Reducer::NoSync> local;
                if (k == 0) local.emplace(ddp.reducer());
                const Batch b = batch_of(at, n);
                ddp.backward(nn::cross_entropy(ddp(b.x), b.y), double(n));
              }
              at += n;
            }
          EXPECT_EQ(ddp.reducer().total_weight(), 30);
          sgd.step();
          sgd.zero_grad();
        }
      });
  expect_equal_and_close(weights, alone(30));
}

// Rank r has r batches less: it takes part with nothing, and still ends with everyone's weights.
TEST_P(DdpLaw, JoinGoesOnWithTheRanksThatHaveBatches) {
  const int ranks = GetParam();
  const int64_t batch = 4;
  const auto batches = [&](int rank) { return kSteps - rank; };
  const auto weights =
      run_ranks(ranks, small_buckets(), [&](ProcessGroup& group, DdpNet&, auto& sgd, auto& ddp) {
        const auto update = [&] { sgd.step(), sgd.zero_grad(); };
        ddp.join(
            [&] {
              for (int s = 0; s < batches(group.rank()); ++s) {
                const Batch b = batch_of((s * ranks + group.rank()) * batch, batch);
                ddp.backward(nn::cross_entropy(ddp(b.x), b.y));
                update();
              }
            },
            update);
      });
  const Weights expected = run_alone(kSteps, [&](DdpNet& net, int s) {
    int active = 0;
    for (int r = 0; r < ranks; ++r) active += s < batches(r);
    return loss_of(net, s * ranks * batch, active * batch);
  });
  expect_equal_and_close(weights, expected);
}

// A rank that runs out in the middle of a window still contributes what it has accumulated.
TEST_P(DdpLaw, JoinKeepsAHalfWindow) {
  const int ranks = GetParam();
  DdpOptions options = small_buckets();
  options.weighted = true;
  const auto weights =
      run_ranks(ranks, options, [&](ProcessGroup& group, DdpNet&, auto& sgd, auto& ddp) {
        const auto update = [&] { sgd.step(), sgd.zero_grad(); };
        ddp.join(
            [&] {
              const Batch b = batch_of(group.rank() * 5, 5);
              if (group.rank() > 0) {
                ddp.backward(nn::cross_entropy(ddp(b.x), b.y), 5);
                return update();
              }
              const auto local = ddp.no_sync();
              ddp.backward(nn::cross_entropy(ddp(b.x), b.y), 5);
            },
            update);
      });
  expect_equal_and_close(weights, alone(5 * ranks, 1));
}

INSTANTIATE_TEST_SUITE_P(Ranks, DdpLaw, ::testing::Values(1, 2, 3, 4));

// One step of two ranks with the given options, in which rank `without` leaves the branch out
// (-1: none, -2: all). Returns the net's weights after the step.
std::vector<Weights> step_without(int without, const DdpOptions& options, int steps = 1) {
  return run_ranks(2, options, [&](ProcessGroup& group, DdpNet&, auto& sgd, auto& ddp) {
    for (int s = 0; s < steps; ++s) {
      const Batch b = batch_of(s * 8 + group.rank() * 4, 4);
      const bool branch = without != -2 && without != group.rank();
      ddp.backward(nn::cross_entropy(ddp(b.x, branch), b.y));
      sgd.step();
      sgd.zero_grad();
    }
  });
}

TEST(DdpUnused, IsAnErrorThatNamesThem) {
  const Error e = error_of([&] { step_without(1, small_buckets()); });
  EXPECT_EQ(e.kind(), ErrorKind::internal);
  EXPECT_THAT(e.what(), AllOf(HasSubstr("rank 1"), HasSubstr("branch.bias, branch.weight"),
                              ::testing::Not(HasSubstr("last"))));
}

Weights mean_of_losses(bool first_branch, bool second_branch, int steps) {
  return run_alone(steps, [&](DdpNet& net, int s) {
    return (loss_of(net, s * 8, 4, first_branch) + loss_of(net, s * 8 + 4, 4, second_branch)) * 0.5;
  });
}

TEST(DdpUnused, CountsAsZerosWhereARankHasNone) {
  for (const Unused unused : {Unused::zero, Unused::detect})
    for (const bool is_static : {false, true}) {
      DdpOptions options = small_buckets();
      options.unused = unused;
      options.static_graph = is_static;
      expect_equal_and_close(step_without(1, options, 3), mean_of_losses(true, false, 3));
    }
}

// What nobody used must not be updated: momentum would move it, and stale memory would be summed.
TEST(DdpUnused, DetectLeavesAloneWhatNobodyUsed) {
  DdpOptions options = small_buckets();
  options.unused = Unused::detect;
  const auto run = [&](bool with_first_step) {
    return run_ranks(2, options, [&](ProcessGroup& group, DdpNet& net, auto& sgd, auto& ddp) {
      const auto step = [&](bool branch) {
        const Batch b = batch_of(group.rank() * 4, 4);
        ddp.backward(nn::cross_entropy(ddp(b.x, branch), b.y));
        EXPECT_EQ(net.branch.weight.grad().defined(), branch);
        sgd.step();
        sgd.zero_grad();
      };
      if (with_first_step) step(true);
      const Tensor before = net.branch.weight.clone();
      step(false);
      EXPECT_EQ(before.values<float>(), net.branch.weight.values<float>());
    });
  };
  run(false);
  run(true);
}

TEST(DdpUnused, ZeroDoesNotSumWhatAnEarlierStepLeft) {
  DdpOptions options = small_buckets();
  options.unused = Unused::zero;
  run_ranks(2, options, [&](ProcessGroup& group, DdpNet& net, auto& sgd, auto& ddp) {
    for (const bool branch : {true, false}) {
      const Batch b = batch_of(group.rank() * 4, 4);
      ddp.backward(nn::cross_entropy(ddp(b.x, branch), b.y));
      double sum = 0;
      for (const float g : net.branch.weight.grad().template values<float>()) sum += std::abs(g);
      EXPECT_EQ(sum > 0, branch);
      sgd.zero_grad();
    }
  });
}

TEST(Ddp, FrozenParametersStayAndAreNotSent) {
  manual_seed(3);
  dist::run_local(2, [](ProcessGroup& group) {
    DdpNet net;
    net.shared.weight.requires_grad(false);
    const std::vector<float> before = net.shared.weight.values<float>();
    optim::Sgd sgd(net.named_parameters(), {.lr = 0.1});
    dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, small_buckets());
    for (const dist::Bucket& bucket : ddp.reducer().buckets())
      for (const auto& item : bucket.items) EXPECT_NE(item.name, "shared.weight");
    const Batch b = batch_of(group.rank() * 4, 4);
    ddp.backward(nn::cross_entropy(ddp(b.x), b.y));
    sgd.step();
    EXPECT_EQ(net.shared.weight.values<float>(), before);
    EXPECT_TRUE(net.shared.bias.grad().defined());
  });
}

// The branch stands last in the list of parameters but is ready before others, `last` first of all.
TEST(Ddp, PlansTheOrderInWhichGradientsCome) {
  DdpOptions options = small_buckets();
  options.bucket_bytes = 200;
  run_ranks(2, options, [](ProcessGroup& group, DdpNet&, auto& sgd, auto& ddp) {
    const auto bucket_of = [&](const std::string& name) {
      for (const dist::Bucket& bucket : ddp.reducer().buckets())
        for (const auto& item : bucket.items)
          if (item.name == name) return bucket.index;
      return size_t{99};
    };
    const Batch b = batch_of(group.rank() * 4, 4);
    const std::vector<size_t> planned = ddp.reducer().order();
    EXPECT_TRUE(std::is_sorted(planned.begin(), planned.end()));
    for (int s = 0; s < 2; ++s) {
      ddp.backward(nn::cross_entropy(ddp(b.x), b.y));
      sgd.zero_grad();
      EXPECT_EQ(ddp.reducer().order().front(), bucket_of("last.weight"));
      EXPECT_EQ(ddp.reducer().order().back(), bucket_of("first.weight"));
    }
  });
}

// Two layers side by side, whose gradients come in another order on every other rank.
TEST(Ddp, RanksMayDisagreeAboutTheOrder) {
  struct Pair : nn::Module {
    nn::Linear a{kFeatures, 16}, b{kFeatures, 16}, last{16, kClasses};
    Tensor operator()(const Tensor& x, bool a_first) const {
      const Tensor one = a_first ? a(x) : b(x), two = a_first ? b(x) : a(x);
      return last(one + two);
    }
    void fields(nn::Fields& f) override { f("a", a), f("b", b), f("last", last); }
  };
  manual_seed(3);
  std::vector<Weights> weights(2);
  dist::run_local(2, [&](ProcessGroup& group) {
    Pair net;
    optim::Sgd sgd(net.named_parameters(), {.lr = 0.1});
    DdpOptions options;
    options.first_bucket_bytes = options.bucket_bytes = 200;
    dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, options);
    for (int s = 0; s < 3; ++s) {
      const Batch b = batch_of(s * 8 + group.rank() * 4, 4);
      ddp.backward(nn::cross_entropy(ddp(b.x, group.rank() == 0), b.y));
      sgd.step(), sgd.zero_grad();
    }
    weights[size_t(group.rank())] = weights_of(net);
    EXPECT_EQ(ddp.reducer().order(), (std::vector<size_t>{0, 1, 2}));  // last, b, a: rank 0's
  });
  EXPECT_EQ(weights[0], weights[1]);
}

TEST(Ddp, FirstBucketIsSmallAndParametersAreWhole) {
  run_ranks(1, small_buckets(), [](ProcessGroup&, DdpNet& net, auto&, auto& ddp) {
    const auto buckets = ddp.reducer().buckets();
    EXPECT_EQ(buckets[0].items.back().name, "branch.bias");
    EXPECT_EQ(buckets[0].items.size(), 2u);  // 64 bytes of bias do not fill it, the weight does
    size_t items = 0;
    for (const dist::Bucket& bucket : buckets) items += bucket.items.size();
    EXPECT_EQ(items, net.parameters().size());
  });
}

TEST(DdpErrors, ASecondBackwardInOneStep) {
  const Error e = error_of([] {
    run_ranks(2, small_buckets(), [](ProcessGroup&, DdpNet& net, auto&, auto&) {
      backward(loss_of(net, 0, 4));
      backward(loss_of(net, 4, 4));
    });
  });
  EXPECT_EQ(e.kind(), ErrorKind::internal);
  EXPECT_THAT(e.what(), AllOf(HasSubstr("of last."), HasSubstr("written again")));
}

// One rank sends nothing and takes a shorter way from its second step on.
TEST(DdpErrors, ARankAloneIsHeldToTheSameRules) {
  run_ranks(1, small_buckets(), [](ProcessGroup&, DdpNet& net, auto& sgd, auto& ddp) {
    for (int s = 0; s < 3; ++s) {
      ddp.backward(loss_of(net, 4 * s, 4));
      sgd.step(), sgd.zero_grad();
    }
    backward(loss_of(net, 0, 4));
    const Error again = error_of([&] { backward(loss_of(net, 4, 4)); });
    EXPECT_THAT(again.what(), AllOf(HasSubstr("of last."), HasSubstr("written again")));
  });
  run_ranks(1, small_buckets(), [](ProcessGroup&, DdpNet& net, auto& sgd, auto& ddp) {
    ddp.backward(loss_of(net, 0, 4));
    sgd.step(), sgd.zero_grad();
    const Error nothing = error_of([&] { ddp.reducer().finish(); });
    EXPECT_THAT(nothing.what(), HasSubstr("has no gradient of this step for"));
  });
}

TEST(DdpErrors, StaticGraphsMayUseSeveralBackwardsButNoOthers) {
  DdpOptions options = small_buckets();
  options.static_graph = true;
  const auto weights =
      run_ranks(2, options, [](ProcessGroup& group, DdpNet& net, auto& sgd, auto& ddp) {
        for (int s = 0; s < 3; ++s) {
          for (int k = 0; k < 2; ++k)
            backward(loss_of(net, s * 8 + (group.rank() * 2 + k) * 2, 2) * 0.5);
          ddp.reducer().finish();
          sgd.step(), sgd.zero_grad();
        }
      });
  expect_equal_and_close(weights, alone(8, 3));
  const Error e = error_of([&] {
    run_ranks(2, options, [](ProcessGroup&, DdpNet&, auto& sgd, auto& ddp) {
      const Batch b = batch_of(0, 4);
      for (const bool branch : {true, false}) {
        ddp.backward(nn::cross_entropy(ddp(b.x, branch), b.y));
        sgd.zero_grad();
      }
    });
  });
  EXPECT_THAT(e.what(), HasSubstr("no gradient of this step for branch.bias"));
}

TEST(DdpErrors, RanksWithDifferentParametersOrOptions) {
  struct Other : nn::Module {
    explicit Other(int64_t width) : fc(4, width) {}
    nn::Linear fc;
    void fields(nn::Fields& f) override { f("fc", fc); }
  };
  const auto run = [](bool other_shape, bool other_options) {
    return error_of([&] {
      dist::run_local(3, [&](ProcessGroup& group) {
        const bool odd = group.rank() == 2;
        Other net(odd && other_shape ? 5 : 3);
        optim::Sgd sgd(net.named_parameters());
        DdpOptions options;
        if (odd && other_options) options.unused = Unused::zero;
        dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, options);
      });
    });
  };
  const Error shape = run(true, false), options = run(false, true);
  EXPECT_EQ(shape.kind(), ErrorKind::desync);
  EXPECT_THAT(shape.what(),
              AllOf(HasSubstr("fc.weight f32 [3,4], rank 2 has fc.weight f32 [5,4]")));
  EXPECT_EQ(options.kind(), ErrorKind::desync);
  EXPECT_THAT(options.what(), AllOf(HasSubstr("unused 0"), HasSubstr("rank 2 has unused 1")));
}

// A hook that breaks one bit on one rank stands for memory or a wire that does.
TEST(DdpErrors, AWrongBitAfterTheReductionNamesBucketAndRank) {
  class Flip final : public dist::CommHook {
   public:
    explicit Flip(int rank) : rank_(rank) {}
    void prepare(std::span<const dist::Bucket> buckets, ProcessGroup& group) override {
      inner_->prepare(buckets, group);
    }
    void start(const dist::Bucket& b, dist::ReduceOp op, ProcessGroup& group) override {
      inner_->start(b, op, group);
    }
    void finish(const dist::Bucket& b, dist::ReduceOp op, ProcessGroup& group) override {
      inner_->finish(b, op, group);
      if (b.index != 1 || group.rank() != rank_) return;
      Tensor last = b.items.back().grad;
      static_cast<uint8_t*>(last.mut().data)[5] ^= 1;
    }

   private:
    int rank_;
    std::unique_ptr<CommHook> inner_ = dist::all_reduce_hook();
  };
  const auto run = [](int rank, dist::Verify verify) {
    manual_seed(3);
    dist::run_local(3, [&](ProcessGroup& group) {
      DdpNet net;
      optim::Sgd sgd(net.named_parameters());
      DdpOptions options = small_buckets();
      options.verify = verify;
      options.hook = std::make_shared<Flip>(rank);
      dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}}, options);
      ddp.backward(loss_of(net, 0, 4));
    });
  };
  run(-1, dist::Verify::automatic);
  run(2, dist::Verify::off);
  const Error e = error_of([&] { run(2, dist::Verify::automatic); });
  EXPECT_EQ(e.kind(), ErrorKind::desync);
  EXPECT_THAT(e.what(), AllOf(HasSubstr("bucket 1"), HasSubstr("rank 2")));
}

TEST(DdpErrors, MisuseIsNamed) {
  run_ranks(1, small_buckets(), [](ProcessGroup&, DdpNet& net, auto& sgd, auto& ddp) {
    const auto text = [](auto f) { return std::string(error_of(f).what()); };
    EXPECT_THAT(text([&] { ddp.backward(loss_of(net, 0, 4), 2.0); }), HasSubstr("weighted"));
    EXPECT_THAT(text([&] { ddp.reducer().shadow(); }), HasSubstr("begin_join"));
    nn::Linear other(2, 2);
    EXPECT_THAT(
        text([&] { dist::DistributedDataParallel(other, sgd, dist::make_local_groups(1)[0]); }),
        HasSubstr("weight"));
  });
}

}  // namespace
}  // namespace pinion::testing
