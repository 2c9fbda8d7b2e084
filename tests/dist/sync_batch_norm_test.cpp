// SPDX-License-Identifier: Apache-2.0
// SyncBatchNorm: ranks with parts of a batch compute what one rank with all of it computes.
#include "pinion/dist/parallel/sync_batch_norm.h"

#include "ddp_testing.h"

namespace pinion::testing {
namespace {

using dist::ProcessGroup;

struct ConvNet : nn::Module {
  nn::Conv2d conv{2, 4, 3, {.padding = 1}, false};
  nn::BatchNorm2d norm{4}, second{4};
  nn::Linear head{4, kClasses};
  Tensor operator()(const Tensor& x) const {
    const Tensor h = norm(conv(x), {.relu = true});
    return head(nn::global_avg_pool2d(second(h, {.residual = h})));
  }
  void fields(nn::Fields& f) override {
    f("conv", conv), f("norm", norm), f("second", second), f("head", head);
  }
};

constexpr int64_t kSize = 4;

Batch images_of(int64_t begin, int64_t n) {
  Batch b = batch_of(begin, n, kSize * kSize * 2);
  b.x = nn::affine(b.x, 2, 3).alias({n, kSize, kSize, 2});  // means far from 0
  return b;
}

Weights train(ProcessGroup& group, const std::vector<int64_t>& sizes, bool sync) {
  ConvNet net;
  optim::Sgd sgd(net.named_parameters(), {.lr = 0.05});
  const std::shared_ptr<ProcessGroup> shared(&group, [](auto*) {});
  if (sync) {
    EXPECT_EQ(dist::convert_sync_batchnorm(net, shared), 2);
  }
  dist::DdpOptions options;
  options.weighted = true;
  dist::DistributedDataParallel ddp(net, sgd, shared, options);
  int64_t all = 0, before = 0;
  for (size_t r = 0; r < sizes.size(); ++r) {
    if (static_cast<int>(r) < group.rank()) before += sizes[r];
    all += sizes[r];
  }
  const int64_t mine = sizes[static_cast<size_t>(group.rank())];
  for (int s = 0; s < 3; ++s) {
    const Batch b = images_of(s * all + before, mine);
    ddp.backward(nn::cross_entropy(ddp(b.x), b.y), double(mine));
    sgd.step();
    sgd.zero_grad();
  }
  return weights_of(net);  // running statistics too
}

std::vector<Weights> run(const std::vector<int64_t>& sizes, bool sync) {
  manual_seed(5);
  std::vector<Weights> out(sizes.size());
  dist::run_local(static_cast<int>(sizes.size()), [&](ProcessGroup& group) {
    out[static_cast<size_t>(group.rank())] = train(group, sizes, sync);
  });
  return out;
}

TEST(SyncBatchNorm, EqualsOneRankWithTheWholeBatch) {
  const Weights whole = run({12}, false)[0];
  EXPECT_LE(distance(whole, run({12}, true)[0]), 1e-6);
  for (const std::vector<int64_t>& sizes :
       std::vector<std::vector<int64_t>>{{6, 6}, {3, 3, 3, 3}, {9, 3}, {1, 11}}) {
    const auto ranks = run(sizes, true);
    for (const Weights& w : ranks) {
      EXPECT_EQ(w, ranks[0]);
      EXPECT_LE(distance(whole, w), 1e-6);
    }
    EXPECT_GT(distance(whole, run(sizes, false)[0]), 1e-4);  // it does matter
  }
}

// In f64, where nothing hides behind rounding: result, gradient, running statistics; a rank without
// images takes part. Groups are views: each rank has the same studies of each.
TEST(SyncBatchNorm, IsExactInForwardAndBackward) {
  const int64_t n = 5, channels = 3, pixels = 4;
  for (const int64_t groups : {1, 2, 3}) {
    std::vector<double> values, weights;
    for (int64_t i = 0; i < groups * n * pixels * channels; ++i) {
      values.push_back(10 * double(1 + i / (n * pixels * channels)) +
                       std::sin(double(i) * 1.7) * double(1 + i % channels));
      weights.push_back(std::cos(double(i) * 0.9));
    }
    // Images [begin, end) of each group.
    const auto images = [&](const std::vector<double>& of, int64_t begin, int64_t end) {
      std::vector<double> out;
      for (int64_t g = 0; g < groups; ++g)
        out.insert(out.end(), of.begin() + (g * n + begin) * pixels * channels,
                   of.begin() + (g * n + end) * pixels * channels);
      return Tensor::of(out, {groups * (end - begin), 2, 2, channels});
    };
    struct Result {
      std::vector<double> y, dx, mean, var;
    };
    const auto pass = [&](int64_t begin, int64_t end, ProcessGroup* group) {
      Tensor x = images(values, begin, end);
      x.requires_grad(true);
      Tensor gamma = Tensor::full({channels}, 1.5, DType::f64),
             beta = Tensor::zeros({channels}, DType::f64);
      Tensor mean = Tensor::zeros({channels}, DType::f64),
             var = Tensor::full({channels}, 1, DType::f64);
      nn::BatchNormOptions options;
      options.groups = groups;
      options.relu = true;
      if (group) options.sum_over_parts = [=](const Tensor& t) { group->all_reduce(t).wait(); };
      const Tensor y = nn::batch_norm2d(x, gamma, beta, mean, var, options);
      backward(y, images(weights, begin, end));
      return Result{y.detach().values<double>(), x.grad().values<double>(), mean.values<double>(),
                    var.values<double>()};
    };
    const Result whole = pass(0, n, nullptr);
    const auto near = [](double expected, double got) { EXPECT_NEAR(expected, got, 1e-12); };
    dist::run_local(3, [&](ProcessGroup& group) {
      const int64_t bounds[] = {0, 2, 2, n};
      const int64_t begin = bounds[group.rank()], end = bounds[group.rank() + 1];
      const Result part = pass(begin, end, &group);
      const auto each = static_cast<size_t>((end - begin) * pixels * channels);
      for (size_t i = 0; i < part.y.size(); ++i) {
        const size_t at = static_cast<size_t>(begin * pixels * channels) + i % each +
                          i / each * static_cast<size_t>(n * pixels * channels);
        near(whole.y[at], part.y[i]);
        near(whole.dx[at], part.dx[i]);
      }
      for (size_t c = 0; c < size_t{channels}; ++c) {
        near(whole.mean[c], part.mean[c]);
        near(whole.var[c], part.var[c]);
      }
    });
  }
}

TEST(SyncBatchNorm, EvaluationNeedsNobody) {
  dist::run_local(2, [](ProcessGroup& group) {
    if (group.rank() == 1) return;
    dist::SyncBatchNorm2d norm(2, {&group, [](auto*) {}});
    norm.eval();
    EXPECT_EQ(norm(Tensor::full({1, 1, 1, 2}, 3)).shape(), (Shape{1, 1, 1, 2}));
  });
}

// Without it, buffers are rank 0's at every synchronised forward().
TEST(BatchNormBuffers, AreBroadcastBeforeEveryTrainingForward) {
  manual_seed(5);
  dist::run_local(2, [](ProcessGroup& group) {
    ConvNet net;
    net.norm.running_mean.copy_(Tensor::full({4}, group.rank()));
    optim::Sgd sgd(net.named_parameters());
    dist::DistributedDataParallel ddp(net, sgd, {&group, [](auto*) {}});
    EXPECT_EQ(net.norm.running_mean.values<float>(), (std::vector<float>(4, 0)));
    ddp.backward(nn::mean(ddp(images_of(group.rank() * 4, 4).x)));
    const std::vector<float> own = net.norm.running_mean.values<float>();
    ddp.sync_buffers();
    EXPECT_EQ(net.norm.running_mean.values<float>() == own, group.rank() == 0);
    EXPECT_EQ(net.norm.num_batches_tracked.item(), 1);
    net.norm.running_mean.copy_(Tensor::full({4}, 7 * group.rank()));
    (void)ddp(images_of(0, 4).x);  // the same images everywhere, from rank 0's zeros
    for (const float mean : net.norm.running_mean.values<float>()) EXPECT_LT(std::abs(mean), 3);
  });
}

}  // namespace
}  // namespace pinion::testing
