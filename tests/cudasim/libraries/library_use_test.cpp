// SPDX-License-Identifier: Apache-2.0
// How the backend uses NVIDIA's libraries, seen by their stand-ins: what is planned once and run
// often, what is asked to refuse, and what computes then.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "fake_libraries.h"
#include "pinion/kernels/cuda/matmul_library.h"
#include "pinion/kernels/cuda/plan_cache.h"
#include "pinion/kernels/cuda/tf32.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/tensor.h"

namespace pinion::kernels::cuda {
namespace {

using ::testing::HasSubstr;

constexpr Device kDevice{Device::Kind::cuda, 0};

// n numbers that f32 has and neither TF32 nor a 16-bit type has.
Tensor numbers(const Shape& shape) {
  std::vector<float> v;
  for (int64_t i = 0; i < shape.numel(); ++i)
    v.push_back(1 + static_cast<float>((i * 40503 >> 3) % 4096) / 16384);
  return Tensor::of(v, shape).to(kDevice);
}

cudasim::FakeLibraries& fake() { return cudasim::fake_libraries(); }

class LibraryUse : public ::testing::Test {
 protected:
  void SetUp() override { before_ = fake(); }
  void TearDown() override {
    fake().refuse_convolutions = fake().refuse_products = false;
    set_tf32({});
  }
  int products() const { return fake().products - before_.products; }
  int product_plans() const { return fake().product_plans - before_.product_plans; }
  int convolutions() const { return fake().convolutions - before_.convolutions; }
  int convolution_plans() const { return fake().convolution_plans - before_.convolution_plans; }

 private:
  cudasim::FakeLibraries before_;
};

std::vector<float> product(int64_t m, int64_t n, int64_t k) {
  const Tensor a = numbers({m, k}), b = numbers({k, n});
  Tensor y({m, n}, DType::f32, kDevice);
  matmul(cuda_context(0), a, false, b, false, false, y.mut());
  return y.to(Device{}).values<float>();
}

TEST_F(LibraryUse, ProductsFromSixtyFourOn) {
  product(64, 64, 64);
  EXPECT_EQ(products(), 1);
  product(63, 64, 64), product(64, 63, 64), product(64, 64, 63);
  EXPECT_EQ(products(), 1);
  const OwnProductsOnly own;
  product(64, 64, 64);
  EXPECT_EQ(products(), 1);
}

TEST_F(LibraryUse, AnAlgorithmIsPickedOncePerShape) {
  for (int i = 0; i < 3; ++i) product(66, 67, 68);
  EXPECT_EQ(products(), 3);
  EXPECT_EQ(product_plans(), 1);
  product(67, 66, 68);
  EXPECT_EQ(product_plans(), 2);
  set_tf32({true, false});
  product(66, 67, 68);
  EXPECT_EQ(product_plans(), 3);
}

TEST_F(LibraryUse, Tf32IsOffUnlessAllowed) {
  EXPECT_FALSE(tf32_of(nullptr).matmul || tf32_of("0").conv || tf32_of("").matmul);
  EXPECT_TRUE(tf32_of("1").matmul && tf32_of("1").conv);
  EXPECT_TRUE(tf32_of("matmul").matmul && !tf32_of("matmul").conv);
  EXPECT_TRUE(!tf32_of("conv").matmul && tf32_of("matmul,conv").conv);
  EXPECT_THROW(tf32_of("yes"), Error);
}

TEST_F(LibraryUse, WhatCublasltHasNoAlgorithmForIsOurs) {
  fake().refuse_products = true;
  const std::vector<float> own = product(70, 71, 72);
  EXPECT_EQ(products(), 0);
  fake().refuse_products = false;
  product(70, 71, 72);  // that there is none is remembered
  EXPECT_EQ(products(), 0);
  EXPECT_EQ(product_plans(), 1);
  EXPECT_FALSE(std::isnan(own[0]));
}

// The bias and the tanh form of GELU go with the product; ReLU and the erf form take a pass.
TEST_F(LibraryUse, LinearLayersAreOneProduct) {
  const Tensor x = numbers({64, 64}), w = numbers({64, 64}), b = numbers({64});
  for (const Activation act : {Activation::relu, Activation::gelu, Activation::gelu_tanh}) {
    Tensor y({64, 64}, DType::f32, kDevice), pre = Tensor::like(y);
    linear_forward(cuda_context(0), x, w, b, act, y.mut(), pre.mut());
    EXPECT_FALSE(std::isnan(y.to(Device{}).values<float>()[0]));
  }
  EXPECT_EQ(products(), 3);
}

TEST_F(LibraryUse, WrongCallsNameTheLibraryAndTheReason) {
  const std::vector<float> host(64 * 64);
  Tensor y({64, 64}, DType::f32, kDevice);
  const ConstView there(host.data(), {64, 64}, DType::f32);
  try {
    matmul(cuda_context(0), there, false, there, false, false, y.mut());
    FAIL() << "multiplied memory of the host";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::device);
    EXPECT_THAT(e.what(), HasSubstr("cuBLASLt: expected a product to be launched, got cuBLASLt: a "
                                    "matrix that is not in one block of device memory"));
  }
  Tensor image({1, 4, 4, 2}, DType::f32, kDevice), weight({2, 1, 1, 2}, DType::f32, kDevice);
  Tensor odd({1, 4, 3, 2}, DType::f32, kDevice);
  try {
    conv2d_forward(cuda_context(0), image, weight, {}, odd.mut());
    FAIL() << "planned a result of another extent";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::device);
    EXPECT_THAT(e.what(), HasSubstr("cuDNN: expected the operation of a convolution, got "
                                    "CUDNN_STATUS_BAD_PARAM: extents of the result"));
  }
}

// n images of [6,5,c]. Tests differ in c, so that none meets another's plans.
struct Images {
  Tensor x, w, dy;
  Conv2d conv{2, 1, 1};

  Images(int64_t n, int64_t c)
      : x(numbers({n, 6, 5, c})), w(numbers({4, 3, 3, c})), dy(numbers({n, 3, 3, 4})) {}

  std::vector<float> forward() const {
    Tensor y = Tensor::like(dy);
    conv2d_forward(cuda_context(0), x, w, conv, y.mut());
    return y.to(Device{}).values<float>();
  }
  std::vector<float> backward() const {
    Tensor dx = Tensor::like(x), dw = Tensor::like(w);
    conv2d_backward_input(cuda_context(0), w, dy, conv, dx.mut());
    conv2d_backward_weight(cuda_context(0), x, dy, conv, dw.mut());
    std::vector<float> all = dx.to(Device{}).values<float>();
    const std::vector<float> more = dw.to(Device{}).values<float>();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float d = 0;
  for (size_t i = 0; i < a.size(); ++i) d = std::max(d, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return d;
}

TEST_F(LibraryUse, ConvolutionsArePlannedOncePerShapeAndDirection) {
  const Images i(2, 3);
  const std::vector<float> y = i.forward();
  i.backward();
  EXPECT_EQ(convolution_plans(), 3);
  EXPECT_EQ(convolutions(), 3);
  EXPECT_EQ(i.forward(), y);
  EXPECT_EQ(convolution_plans(), 3);
  EXPECT_EQ(convolutions(), 4);
}

// The first images of a longer batch are the same, and its plans are others.
TEST_F(LibraryUse, ConvolutionsWithoutAnEngineAreOurs) {
  const Images two(2, 5), three(3, 5);
  const std::vector<float> y = two.forward(), gradients = two.backward();
  EXPECT_EQ(convolutions(), 3);
  fake().refuse_convolutions = true;
  std::vector<float> own = three.forward(), own_gradients = three.backward();
  fake().refuse_convolutions = false;
  three.forward();  // that there is no engine is remembered
  EXPECT_EQ(convolutions(), 3);
  own.resize(y.size());
  EXPECT_LT(largest_difference(own, y), 1e-6f);
  constexpr size_t kInput = 2 * 6 * 5 * 5;
  own_gradients.resize(kInput);
  EXPECT_LT(largest_difference(own_gradients, gradients), 1e-6f);
}

TEST_F(LibraryUse, Tf32IsUsedWhereItIsAllowed) {
  const Images i(2, 7);
  const std::vector<float> exact = i.forward();
  set_tf32({false, true});
  const float off = largest_difference(i.forward(), exact);
  EXPECT_GT(off, 1e-6f);
  EXPECT_LT(off, 1e-3f);
  set_tf32({true, false});
  EXPECT_EQ(i.forward(), exact);
}

TEST(PlanCache, KeepsTheLastUsed) {
  PlanCache<1, int> cache(2);
  int made = 0;
  const auto get = [&](int64_t key) {
    return cache.get({key}, [&] { return std::make_shared<int>(++made); });
  };
  const auto first = get(1);
  get(2), get(1), get(3);  // 2 goes
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_EQ(*get(1), 1);
  EXPECT_EQ(*get(2), 4);  // 3 goes
  EXPECT_EQ(*get(1), 1);
  EXPECT_THROW(cache.get({9}, []() -> std::shared_ptr<int> { throw Error(ErrorKind::device, ""); }),
               Error);
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_EQ(*first, 1);
}

// What computes large products, asked in a process of its own.
[[noreturn]] void end_after_product() {
  const std::vector<float> y = product(64, 64, 64);
  std::fprintf(stderr, "%s\n", product_library().c_str());
  std::exit(fake().products == 0 && y[0] > 64 ? 0 : 1);
}
TEST(LibraryUseDeathTest, MissingCublasltIsNoError) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT((fake().cublaslt = false, end_after_product()), ::testing::ExitedWithCode(0),
              "cuBLASLt: taken away by a test");
  EXPECT_EXIT((::setenv("PINION_CUBLASLT", "0", 1), end_after_product()),
              ::testing::ExitedWithCode(0), "cuBLASLt: switched off by PINION_CUBLASLT=0");
}

}  // namespace
}  // namespace pinion::kernels::cuda
