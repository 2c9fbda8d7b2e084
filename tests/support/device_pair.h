// SPDX-License-Identifier: Apache-2.0
// The same numbers on the CPU and on a CUDA device, which is a GPU or the simulator: kernels run on
// both, and the results are compared.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "pinion/kernels/kernels.h"
#include "pinion/runtime/tensor.h"

namespace pinion::testing {

inline constexpr Device kCpu{}, kCuda{Device::Kind::cuda, 0};
inline constexpr DType kFloating[] = {DType::f32, DType::f64, DType::bf16, DType::f16};

class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }
};

// Elements of a shape with others around them, the same ones on both devices.
class Pair {
 public:
  // Numbers in [-scale, scale], `offset` elements behind an aligned address.
  Pair(DType t, const Shape& shape, int64_t offset = 0, double scale = 1)
      : Pair(t, shape, offset, waves(shape.numel(), offset, scale)) {}
  Pair(DType t, const Shape& shape, std::vector<double> values, int64_t offset = 0)
      : Pair(t, shape, offset, padded(std::move(values), offset)) {}

  View on_device(Device d) {
    Tensor& t = d == kCpu ? cpu_ : cuda_;
    return {static_cast<char*>(t.mut().data) + offset_ * size_of(t.dtype()), shape_, t.dtype()};
  }
  // What lies around the elements included.
  void expect_same() const { EXPECT_TRUE(bytes(cpu_) == bytes(cuda_.to(kCpu))); }
  // The largest difference relative to the largest number; NaN and infinities must agree.
  void expect_close(double bound) const {
    const std::vector<double> want = values(kCpu), got = values(kCuda);
    double largest = 0, difference = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(std::isnan(want[i]), std::isnan(got[i])) << "element " << i;
      if (want[i] == got[i] || std::isnan(want[i])) continue;
      largest = std::max(largest, std::abs(want[i]));
      difference = std::max(difference, std::abs(want[i] - got[i]));
    }
    EXPECT_LE(difference, bound * largest);
  }
  std::vector<double> values(Device d) const {
    const Tensor host = (d == kCpu ? cpu_ : cuda_).to(kCpu);
    Tensor wide(host.shape(), DType::f64);
    on(kCpu, [&](auto& ctx) { kernels::cast(ctx, host, wide.mut()); });
    std::vector<double> all = wide.values<double>();
    return {all.begin() + offset_, all.begin() + offset_ + shape_.numel()};
  }

 private:
  static constexpr int64_t kRoom = 24;  // elements around what a kernel sees

  Pair(DType t, const Shape& shape, int64_t offset, const std::vector<double>& all)
      : shape_(shape), offset_(offset), cpu_({static_cast<int64_t>(all.size())}, t) {
    const Tensor wide = Tensor::of(all, cpu_.shape());
    on(kCpu, [&](auto& ctx) { kernels::cast(ctx, wide, cpu_.mut()); });
    cuda_ = cpu_.to(kCuda);
  }
  static std::vector<double> waves(int64_t n, int64_t first, double scale) {
    std::vector<double> v;
    for (int64_t i = 0; i < n + kRoom; ++i)
      v.push_back(scale * std::sin(static_cast<double>(i * 7 + first)));
    return v;
  }
  static std::vector<double> padded(std::vector<double> v, int64_t offset) {
    v.insert(v.begin(), static_cast<size_t>(offset), 0);
    v.resize(v.size() + static_cast<size_t>(kRoom - offset));
    return v;
  }
  static std::string bytes(const Tensor& t) {
    const ConstView v = t.view();
    return {static_cast<const char*>(v.data), static_cast<size_t>(v.numel() * size_of(v.dtype))};
  }

  Shape shape_;
  int64_t offset_;
  Tensor cpu_, cuda_;
};

// Runs f on both devices.
template <class F>
void on_both(F f) {
  for (const Device d : {kCpu, kCuda}) on(d, [&](auto& ctx) { f(ctx, d); });
}

}  // namespace pinion::testing
