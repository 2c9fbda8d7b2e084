// SPDX-License-Identifier: Apache-2.0
// Two devices: what goes from one to the other is what was written there before, and is written
// again only once it is read. tests/cudasim/CMakeLists.txt asks the simulator for a second device.
#include <gtest/gtest.h>

#include "pinion/kernels/cuda/context.cuh"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/device.h"
#include "pinion/runtime/tensor.h"

namespace cudasim::testing {
namespace {

using pinion::Device;
using pinion::DType;
using pinion::Tensor;

constexpr int kRuns = 60;  // each draws another order

class Devices : public ::testing::Test {
 protected:
  void SetUp() override {
    if (pinion::cuda_device_count() < 2) GTEST_SKIP() << "CUDASIM_DEVICES is not 2";
  }
  static constexpr Device kFirst{Device::Kind::cuda, 0}, kSecond{Device::Kind::cuda, 1};
};

TEST_F(Devices, CopiesComeAfterWhatWroteTheirSourceAndBeforeWhatWritesItAgain) {
  const pinion::Shape shape{64};
  Tensor source = Tensor::full(shape, 0, DType::f32, kFirst);
  for (int i = 0; i < kRuns; ++i) {
    const auto value = static_cast<double>(i);
    pinion::kernels::fill(pinion::cuda_context(0), source.mut(), value);
    const Tensor copy = source.to(kSecond);
    pinion::kernels::fill(pinion::cuda_context(0), source.mut(), -1);
    Tensor sum(shape, DType::f32, kSecond);
    pinion::kernels::add(pinion::cuda_context(1), copy, copy, sum.mut());
    const Tensor back = sum.to(kFirst), host = back.to(Device{});
    for (const float v : host.values<float>()) ASSERT_EQ(v, 2 * value) << "run " << i;
  }
}

TEST_F(Devices, EachHasStreamsEventsAndMemoryOfItsOwn) {
  const Tensor on_first = Tensor::full({4}, 1, DType::f32, kFirst);
  const Tensor on_second = Tensor::full({4}, 2, DType::f32, kSecond);
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  const cudaStream_t second = pinion::cuda_context(1).stream;
  EXPECT_EQ(cudaEventRecord(event, second), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  Tensor to = Tensor::full({4}, 0, DType::f32, kSecond);
  const size_t bytes = 4 * sizeof(float);
  EXPECT_EQ(cudaMemcpyPeerAsync(to.mut().data, 0, on_second.view().data, 1, bytes, second),
            cudaErrorInvalidDevice);
  EXPECT_EQ(cudaMemcpyPeerAsync(to.mut().data, 1, on_first.view().data, 0, bytes, second),
            cudaSuccess);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(to.to(Device{}).values<float>(), std::vector<float>(4, 1.0f));
}

// A kernel goes to a stream of the device that is current.
TEST_F(Devices, ALaunchOnAnotherDevicesStreamIsRefused) {
  const pinion::CudaContext& second = pinion::cuda_context(1);
  Tensor x = Tensor::full({4}, 1, DType::f32, kSecond);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  EXPECT_THROW(pinion::kernels::fill(second, x.mut(), 3), pinion::Error);
}

}  // namespace
}  // namespace cudasim::testing
