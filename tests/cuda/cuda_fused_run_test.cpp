// SPDX-License-Identifier: Apache-2.0
// Whole training runs in one launch on a CUDA device, a GPU or the simulator: they follow the
// CPU's.
#include <gmock/gmock.h>

#include "pinion/tests/optim/fused_run_testing.h"
#include "pinion/tests/support/device_pair.h"

namespace pinion::testing {
namespace {

using optim::FusedEpoch;
using optim::FusedRunOptions;
using optim::train_fused;

struct Trained {
  std::vector<FusedEpoch> epochs;
  Net net;
};
Trained trained(const Net& initial, Device device, const Samples& data, const FusedRunOptions& o) {
  Trained out{{}, initial.on_device(device)};
  out.epochs = train_fused(out.net.fc1, out.net.fc2, data.x.to(device), data.target.to(device), o);
  return out;
}

// One case for each form of the kernel: features up to 12 and 32, hidden units up to 32 and 64,
// classes up to 2, 4 and 16. Batches have tails, and warps without work.
TEST_F(CudaKernels, FusedRunsFollowTheCpus) {
  const struct {
    int64_t samples, features, hidden, classes;
    FusedRunOptions options;
  } cases[] = {
      {150, 10, 32, 2, {.epochs = 3, .batch_size = 32, .adam = {.lr = 0.01}, .seed = 4}},
      {75, 12, 20, 3, {.epochs = 2, .batch_size = 33, .adam = {.weight_decay = 0.1}}},
      {37, 1, 1, 16, {.epochs = 2, .batch_size = 40, .adam = {.lr = 0.01}}},
      {37, 11, 64, 1, {.epochs = 2, .batch_size = 5, .adam = {.lr = 0.01}}},
      {20, 4, 33, 4, {.epochs = 2, .batch_size = 1, .adam = {.lr = 0.01}}},
      {70, 9, 50, 10, {.epochs = 2, .adam = {.weight_decay = 0.1}, .decoupled = true}},
      {70, 32, 32, 2, {.epochs = 2, .batch_size = 64}},
      {50, 13, 17, 3, {.epochs = 2, .batch_size = 7}},
      {50, 16, 31, 9, {.epochs = 2, .batch_size = 70}},
      {60, 31, 64, 2, {.epochs = 2, .batch_size = 31}},
      {40, 20, 40, 4, {.epochs = 2}},
      {40, 32, 64, 13, {.epochs = 2, .batch_size = 17}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.features << "-" << c.hidden << "-" << c.classes);
    const Samples data(c.samples, c.features, c.classes);
    const Net initial(1, c.features, c.hidden, c.classes);
    const Trained want = trained(initial, kCpu, data, c.options);
    const Trained got = trained(initial, kCuda, data, c.options);
    ASSERT_EQ(got.epochs.size(), want.epochs.size());
    for (size_t e = 0; e < want.epochs.size(); ++e) {
      EXPECT_NEAR(got.epochs[e].loss, want.epochs[e].loss, 1e-5) << "epoch " << e;
      EXPECT_NEAR(got.epochs[e].accuracy, want.epochs[e].accuracy, 0.004) << "epoch " << e;
    }
    for (size_t i = 0; i < 4; ++i)
      EXPECT_LT(distance(got.net.parameters()[i].detach().to(kCpu), want.net.parameters()[i]), 2e-5)
          << "tensor " << i;
  }
}

// The toy problem: ten normal numbers, and whether the first two add up to more than zero, one
// label in ten being wrong.
TEST_F(CudaKernels, TheToyIsLearntInOneLaunch) {
  Samples data(1000, 10, 2);
  const std::vector<float> x = data.x.values<float>();
  int64_t* target = data.target.mut().as<int64_t>();
  for (size_t i = 0; i < 1000; ++i) target[i] = (x[i * 10] + x[i * 10 + 1] > 0) != (i % 10 == 0);
  const Net initial(1, 10, 32, 2);
  const Trained want = trained(initial, kCpu, data, {.epochs = 5});
  const Trained got = trained(initial, kCuda, data, {.epochs = 5});
  EXPECT_NEAR(got.epochs[4].loss, want.epochs[4].loss, 1e-5);
  EXPECT_NEAR(got.epochs[4].accuracy, want.epochs[4].accuracy, 0.002);
  EXPECT_NEAR(got.epochs[4].loss, 0.498, 0.06);  // what 20 seeds average, and how far one may be
  EXPECT_NEAR(got.epochs[4].accuracy, 0.831, 0.05);
}

TEST_F(CudaKernels, AFusedSweepIsItsRunsBitForBit) {
  const Samples data(45, 10, 2);
  const Tensor x = data.x.to(kCuda), target = data.target.to(kCuda);
  const FusedRunOptions options{.epochs = 2};
  std::vector<Net> nets;
  for (uint64_t m = 0; m < 3; ++m) nets.push_back(Net(m, 10, 32, 2).on_device(kCuda));
  std::vector<optim::FusedModel> models;
  for (Net& net : nets) models.push_back({&net.fc1, &net.fc2, 0.01, models.size()});
  models[2].lr = 0.02;
  const auto swept = train_fused(models, x, target, options);
  for (size_t m = 0; m < nets.size(); ++m) {
    FusedRunOptions own = options;
    own.adam.lr = models[m].lr, own.seed = m;
    const Trained alone = trained(Net(m, 10, 32, 2), kCuda, data, own);
    EXPECT_EQ(bits(nets[m]), bits(alone.net)) << "model " << m;
    EXPECT_EQ(swept[m].back().loss, alone.epochs.back().loss);
    EXPECT_EQ(swept[m].back().accuracy, alone.epochs.back().accuracy);
  }
  EXPECT_NE(bits(nets[0]), bits(nets[1]));
}

TEST_F(CudaKernels, ATargetThatIsNoClassGivesNanInAFusedRun) {
  Samples data(40, 3, 2);
  data.target.mut().as<int64_t>()[17] = -1;
  const Trained got = trained(Net(1, 3, 4, 2), kCuda, data, {});
  EXPECT_TRUE(std::isnan(got.epochs[0].loss));
  EXPECT_TRUE(std::isnan(bits(got.net)[0][0]));
}

TEST_F(CudaKernels, FusedRunsSayWhatDoesNotFit) {
  const auto refused = [](int64_t n, int64_t features, int64_t hidden, int64_t classes) {
    const Samples data(n, features, classes);
    try {
      trained(Net(1, features, hidden, classes), kCuda, data, {});
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::device);
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(refused(9, 33, 32, 2), ::testing::HasSubstr("at most 32 features, 64 hidden"));
  EXPECT_THAT(refused(9, 3, 65, 2), ::testing::HasSubstr("got 3, 65 and 2"));
  EXPECT_THAT(refused(9, 3, 4, 17), ::testing::HasSubstr("16 classes, got 3, 4 and 17"));
  EXPECT_THAT(refused(9000, 10, 32, 2), ::testing::HasSubstr("got 9000 samples; train"));
}

}  // namespace
}  // namespace pinion::testing
