// SPDX-License-Identifier: Apache-2.0
// DataParallel in both forms ends where DistributedDataParallel and a single device end.
#include "pinion/dist/parallel/data_parallel.h"

#include "ddp_testing.h"
#include "pinion/nn/layers_image.h"

namespace pinion::testing {
namespace {

using dist::DataParallel;
using ::testing::HasSubstr;

constexpr int kSteps = 4;
constexpr int64_t kBatch = 24;

dist::DataParallelOptions devices(int n) {
  return {std::vector<Device>(static_cast<size_t>(n)), 1};
}

const auto kLoss = [](const DdpNet& net, const Tensor& x, const Tensor& y) {
  return nn::cross_entropy(net(x), y);
};

enum class Form { tuned, pytorch_like };

// Trains with `micro` micro-batches per update and returns the weights; losses go to `losses`.
Weights train(Form form, int n, int micro, std::vector<double>* losses = nullptr,
              int64_t batch = kBatch) {
  manual_seed(3);
  DdpNet net;
  optim::Sgd sgd(net.named_parameters(), {.lr = 0.1, .momentum = 0.9});
  DataParallel dp(net, sgd, devices(n));
  for (int s = 0; s < kSteps; ++s) {
    for (int k = 0; k < micro; ++k) {
      const Batch b = batch_of((s * micro + k) * batch, batch);
      Tensor loss;
      if (form == Form::tuned) {
        loss = dp.step(kLoss, b.x, b.y);
      } else {
        loss = nn::cross_entropy(dp(b.x), b.y);
        backward(loss);
      }
      if (losses) losses->push_back(loss.item());
    }
    sgd.step();
    sgd.zero_grad();
  }
  return weights_of(net);
}

Weights single(int micro, std::vector<double>* losses = nullptr, int64_t batch = kBatch) {
  manual_seed(3);
  DdpNet net;
  optim::Sgd sgd(net.named_parameters(), {.lr = 0.1, .momentum = 0.9});
  for (int s = 0; s < kSteps; ++s) {
    for (int k = 0; k < micro; ++k) {
      const Batch b = batch_of((s * micro + k) * batch, batch);
      const Tensor loss = nn::cross_entropy(net(b.x), b.y);
      if (losses) losses->push_back(loss.item());
      backward(loss);
    }
    sgd.step();
    sgd.zero_grad();
  }
  return weights_of(net);
}

class DataParallelLaw : public ::testing::TestWithParam<std::tuple<Form, int>> {};

TEST_P(DataParallelLaw, EqualsOneDevice) {
  const auto [form, n] = GetParam();
  for (const int micro : {1, 2}) {
    std::vector<double> losses, expected_losses;
    const Weights got = train(form, n, micro, &losses);
    EXPECT_LE(distance(single(micro, &expected_losses), got), 1e-6);
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(losses[i], expected_losses[i], 1e-6);
    EXPECT_EQ(got, train(form, n, micro));  // the same bits again
  }
}

// Batches that do not divide, and ones that leave devices without a sample.
TEST_P(DataParallelLaw, BatchesMayBeUneven) {
  const auto [form, n] = GetParam();
  for (const int64_t batch : {1, 2, 5})
    EXPECT_LE(distance(single(1, nullptr, batch), train(form, n, 1, nullptr, batch)), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Forms, DataParallelLaw,
                         ::testing::Combine(::testing::Values(Form::tuned, Form::pytorch_like),
                                            ::testing::Values(1, 2, 3, 4)));

TEST(DataParallel, BothFormsEqualDistributedDataParallel) {
  const auto ddp = run_ranks(2, {}, [](dist::ProcessGroup& group, DdpNet&, auto& sgd, auto& model) {
    for (int s = 0; s < kSteps; ++s) {
      const Batch b = batch_of(s * kBatch + group.rank() * kBatch / 2, kBatch / 2);
      model.backward(nn::cross_entropy(model(b.x), b.y));
      sgd.step();
      sgd.zero_grad();
    }
  });
  EXPECT_LE(distance(ddp[0], train(Form::tuned, 2, 1)), 1e-6);
  EXPECT_LE(distance(ddp[0], train(Form::pytorch_like, 2, 1)), 1e-6);
}

// A parameter that no replica uses keeps no gradient, nor memory of an earlier one.
TEST(DataParallel, UnusedParametersHaveNoGradient) {
  DdpNet net;
  optim::Sgd sgd(net.named_parameters());
  DataParallel dp(net, sgd, devices(2));
  const Batch b = batch_of(0, 8);
  const auto with = [&](const DdpNet& m, const Tensor& x) { return nn::mean(m(x, true)); };
  const auto without = [&](const DdpNet& m, const Tensor& x) { return nn::mean(m(x, false)); };
  dp.step(with, b.x);
  EXPECT_TRUE(net.branch.weight.grad().defined());
  sgd.zero_grad();
  dp.step(without, b.x);
  EXPECT_FALSE(net.branch.weight.grad().defined());
  sgd.zero_grad();
  struct Half : nn::Module {
    bool* both;
    nn::Linear always{kFeatures, 2}, sometimes{2, 2};
    explicit Half(bool* flag) : both(flag) {}
    Tensor operator()(const Tensor& in) const {
      const Tensor h = always(in);
      return *both ? sometimes(h) : h;
    }
    void fields(nn::Fields& f) override { f("always", always), f("sometimes", sometimes); }
  };
  bool both = true;
  Half half(&both);
  optim::Sgd other(half.named_parameters());
  DataParallel like_pytorch(half, other, devices(2));
  std::vector<float> first;
  for (const bool now : {true, false, true}) {
    both = now;
    backward(nn::mean(like_pytorch(b.x)));
    EXPECT_TRUE(half.always.weight.grad().defined());
    const Tensor grad = half.sometimes.weight.grad();
    ASSERT_EQ(grad.defined(), now);
    if (now && first.empty()) first = grad.values<float>();
    if (now) {
      EXPECT_EQ(grad.values<float>(), first);
    }
    if (now) other.zero_grad();  // not in between: the unused one must not lie in wait
  }
}

struct Normed : nn::Module {
  nn::BatchNorm2d norm{2};
  nn::Dropout dropout{0.5};
  Tensor operator()(const Tensor& x) { return dropout(norm(x)); }
  void fields(nn::Fields& f) override { f("norm", norm), f("dropout", dropout); }
};

TEST(DataParallel, BuffersAreThoseOfTheFirstDeviceAndMasksDiffer) {
  Normed net;
  optim::Sgd sgd(net.named_parameters());
  DataParallel dp(net, sgd, devices(2));
  std::vector<float> x(2 * 8 * 2);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 16 % 5) + (i < 16 ? 0.1f : 100.1f);
  const Tensor images = Tensor::of(x, {2, 2, 4, 2});
  const Tensor y = dp(images);
  EXPECT_LT(net.norm.running_mean.values<float>()[0], 1);
  EXPECT_EQ(net.norm.num_batches_tracked.item(), 1);
  EXPECT_EQ(net.counters()[0].count, 1u);
  // Both images normalise to the same numbers, none of them 0.
  const auto zeros = [&](int64_t image) {
    std::vector<bool> zero;
    for (const float v : y.rows(image, image + 1).values<float>()) zero.push_back(v == 0);
    return zero;
  };
  EXPECT_NE(zeros(0), zeros(1));
  net.eval();
  const NoGrad no_grad;
  const Tensor quiet = dp(images);
  EXPECT_FALSE(quiet.requires_grad());
  EXPECT_EQ(net.norm.num_batches_tracked.item(), 1);
}

TEST(DataParallel, ErrorsOfAReplicaArriveAndNothingHangs) {
  DdpNet net;
  optim::Sgd sgd(net.named_parameters());
  DataParallel dp(net, sgd, devices(2));
  const Batch b = batch_of(0, 4);
  const auto text = [](auto f) { return std::string(error_of(f).what()); };
  EXPECT_THAT(text([&] { dp(batch_of(0, 4, 5).x); }), HasSubstr("linear"));
  EXPECT_THAT(text([&] { dp.step(kLoss, b.x, batch_of(0, 3).y); }), HasSubstr("one batch"));
  EXPECT_THAT(text([&] { dp.step([](const DdpNet& m, const Tensor& x) { return m(x); }, b.x); }),
              HasSubstr("one element"));
  EXPECT_NO_THROW(dp.step(kLoss, b.x, b.y));
  nn::Linear other(2, 2);
  EXPECT_THAT(text([&] { DataParallel(other, sgd, devices(2)); }), HasSubstr("optimizer"));
}

}  // namespace
}  // namespace pinion::testing
