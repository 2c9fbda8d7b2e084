// SPDX-License-Identifier: Apache-2.0
// A machine without a CUDA device, whatever the build: it is counted, said and survived.
#include <gtest/gtest.h>

#include "pinion/runtime/device.h"
#include "pinion/runtime/tensor.h"

namespace pinion {
namespace {

class NoCudaDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() > 0) GTEST_SKIP() << "this machine has a CUDA device";
  }
};

// The text of the Error (device) that f throws.
template <class F>
std::string device_error(F f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::device);
    return e.what();
  }
  ADD_FAILURE() << "expected an Error, got none";
  return {};
}

TEST_F(NoCudaDevice, AutoIsTheCpu) { EXPECT_EQ(parse_device("auto"), Device{}); }

// Without a driver the runtime answers 35 (cudaErrorInsufficientDriver) and leaves its arguments as
// they were: the count must be 0 again and again.
TEST_F(NoCudaDevice, IsCountedAgain) {
  for (int i = 0; i < 3; ++i) EXPECT_EQ(cuda_device_count(), 0);
}

TEST_F(NoCudaDevice, EveryWayToOneSaysWhatIsMissing) {
  constexpr Device kCuda{Device::Kind::cuda, 0};
#ifdef PINION_WITH_CUDA
  // The driver, or a device for it.
  const auto expected = [](const std::string& text) {
    return text.starts_with("cuda: expected an NVIDIA driver") ||
           text.starts_with("cuda: expected a CUDA device, found none");
  };
  EXPECT_EQ(device_error([] { return parse_device("cuda"); }),
            "device: cuda:0 asked for, found 0 CUDA devices");
#else
  const auto expected = [](const std::string& text) {
    return text.find("no CUDA backend") != std::string::npos;
  };
  EXPECT_PRED1(expected, device_error([] { return parse_device("cuda"); }));
#endif
  for (int i = 0; i < 2; ++i) {
    EXPECT_PRED1(expected, device_error([] { cuda_context(0); }));
    EXPECT_PRED1(expected, device_error([&] { return Tensor({2}, DType::f32, kCuda); }));
    EXPECT_PRED1(expected, device_error([&] { return Tensor::full({2}, 1).to(kCuda); }));
  }
  EXPECT_EQ(Tensor::full({2}, 3).values<float>(), (std::vector<float>{3, 3}));
}

}  // namespace
}  // namespace pinion
