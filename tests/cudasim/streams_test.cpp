// SPDX-License-Identifier: Apache-2.0
// The stand-in for the CUDA runtime: streams keep their order and no other, waits are needed, and
// what a kernel did wrong comes back from the call that waits for it.
#include "sim_testing.h"

namespace cudasim::testing {
namespace {

constexpr int kRuns = 60;  // each draws another order

void write(int* to, int value) { *to = value; }
void copy_plus_one(const int* from, int* to) { *to = *from + 1; }

template <class... P, class... A>
cudaError_t launch_on(cudaStream_t stream, void (*kernel)(P...), A... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = config.blockDim = dim3(1);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

class Streams : public ::testing::Test {
 protected:
  void SetUp() override {
    for (cudaStream_t& s : stream_)
      ASSERT_EQ(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess);
    for (const cudaStream_t s : stream_) EXPECT_EQ(cudaStreamDestroy(s), cudaSuccess);
  }
  cudaStream_t stream_[2] = {};
  cudaEvent_t event_ = nullptr;
};

TEST_F(Streams, OneStreamKeepsItsOrder) {
  const DeviceArray<int> a(1), b(1);
  for (int i = 0; i < kRuns; ++i) {
    launch_on(stream_[0], write, a.get(), i);
    launch_on(stream_[0], copy_plus_one, a.get(), b.get());
    int got = 0;
    cudaMemcpyAsync(&got, b.get(), sizeof got, cudaMemcpyDefault, stream_[0]);
    ASSERT_EQ(cudaStreamSynchronize(stream_[0]), cudaSuccess);
    ASSERT_EQ(got, i + 1);
  }
}

// Writes on one stream and reads on another; how often the read saw the write.
int seen(cudaStream_t writer, cudaStream_t reader, cudaEvent_t event) {
  const DeviceArray<int> a(1), b(1);
  int good = 0;
  for (int i = 0; i < kRuns; ++i) {
    launch_on(writer, write, a.get(), i);
    if (event) {
      cudaEventRecord(event, writer);
      cudaStreamWaitEvent(reader, event);
    }
    launch_on(reader, copy_plus_one, a.get(), b.get());
    cudaDeviceSynchronize();
    good += b.values()[0] == i + 1;
  }
  return good;
}
TEST_F(Streams, AnEventOrdersTwoStreams) { EXPECT_EQ(seen(stream_[0], stream_[1], event_), kRuns); }
TEST_F(Streams, MissingEventShowsInTheResult) {
  EXPECT_LT(seen(stream_[0], stream_[1], nullptr), kRuns);
}
TEST_F(Streams, MissingSynchronisationShowsInTheResult) {
  const DeviceArray<int> a(1);
  int good = 0;
  for (int i = 0; i < kRuns; ++i) {
    launch_on(stream_[0], write, a.get(), i);
    good += a.values()[0] == i;
  }
  EXPECT_LT(good, kRuns);
  EXPECT_EQ(cudaStreamSynchronize(stream_[0]), cudaSuccess);
  EXPECT_EQ(a.values()[0], kRuns - 1);
}

TEST_F(Streams, EventsSayWhatIsDone) {
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
  const DeviceArray<int> a(1);
  launch_on(stream_[0], write, a.get(), 1);
  cudaEventRecord(event_, stream_[0]);
  EXPECT_EQ(cudaEventSynchronize(event_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event_), cudaSuccess);
  EXPECT_EQ(a.values()[0], 1);
}

void diverge(int*) {
  if (threadIdx.x == 0) __syncwarp(0x2u);
}
TEST_F(Streams, ErrorsOfKernelsComeBackOnce) {
  const DeviceArray<int> a(1);
  launch_on(stream_[0], diverge, a.get());
  const cudaError_t status = cudaStreamSynchronize(stream_[0]);
  ASSERT_EQ(status, cudaErrorLaunchFailure);
  EXPECT_NE(std::string(cudaGetErrorString(status)).find("not in its own mask"), std::string::npos);
  EXPECT_EQ(cudaStreamSynchronize(stream_[0]), cudaSuccess);
}
TEST_F(Streams, WrongArgumentsAreRefused) {
  const DeviceArray<int> a(4);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(2048);
  EXPECT_EQ(cudaLaunchKernelEx(&config, diverge, a.get()), cudaErrorInvalidConfiguration);
  cudaGetLastError();
  int host[8] = {};
  EXPECT_EQ(cudaMemcpyAsync(a.get(), host, sizeof host, cudaMemcpyDefault, stream_[0]),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 4, stream_[0]), cudaErrorInvalidValue);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
  cudaGetLastError();
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, size_t{1} << 40), cudaErrorMemoryAllocation);
}

}  // namespace
}  // namespace cudasim::testing
