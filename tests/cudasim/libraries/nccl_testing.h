// SPDX-License-Identifier: Apache-2.0
// Ranks of the NCCL group as threads with a simulated device each, over the stand-in for NCCL.
// tests/cudasim/CMakeLists.txt asks the simulator for the devices.
#pragma once

#include <gmock/gmock.h>

#include <functional>

#include "fake_libraries.h"
#include "pinion/dist/group/local_group.h"
#include "pinion/dist/group/nccl_group.h"
#include "pinion/runtime/device.h"

namespace pinion::dist {

constexpr int kMostRanks = 4;

using Body = std::function<void(ProcessGroup&, Device)>;

inline std::shared_ptr<ProcessGroup> join_nccl(ProcessGroup& host, int device) {
  return make_nccl_group({&host, [](auto*) {}}, {Device::Kind::cuda, device});
}

inline void on_devices(int ranks, const Body& body) {
  run_local(ranks, [&](ProcessGroup& host) {
    const auto group = join_nccl(host, host.rank());
    body(*group, {Device::Kind::cuda, host.rank()});
  });
}

// By the number of ranks, for tests that take any.
class NcclGroups : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (cuda_device_count() < kMostRanks) GTEST_SKIP() << "CUDASIM_DEVICES is not " << kMostRanks;
    cudasim::fake_libraries() = {};
  }
  // NCCL was used as its documentation wants it.
  void TearDown() override { EXPECT_EQ(cudasim::fake_libraries().wrong, ""); }
  void expect_refused(const char* why) {
    EXPECT_THAT(cudasim::fake_libraries().wrong, testing::HasSubstr(why));
    cudasim::fake_libraries().wrong.clear();
  }
};

}  // namespace pinion::dist
