// SPDX-License-Identifier: Apache-2.0
// How kernels use memory: sectors of device memory and passes over the banks of shared memory, by
// line, without a GPU. Accesses whose cost is in every textbook; the kernels of the library are in
// traffic_kernels_test.cpp. Built where kernels report their accesses.
#include "pinion/kernels/cuda/mma.cuh"
#include "sim_testing.h"

namespace cudasim::testing {
namespace {

using pinion::BFloat16;
using pinion::kernels::cuda::block_shared;
using pinion::kernels::cuda::dynamic_shared;
using pinion::kernels::cuda::load_pack;
using pinion::kernels::cuda::store_pack;

// The one line with such accesses, as units and least units of a request.
struct PerRequest {
  double units, least;
  bool operator==(const PerRequest&) const = default;
};
PerRequest only(const std::vector<LineTraffic>& lines, bool shared, bool writes) {
  PerRequest found{-1, -1};
  for (const LineTraffic& t : lines)
    if (t.shared == shared && t.writes == writes) {
      EXPECT_EQ(found.units, -1) << "a second line: " << t.line;
      const auto requests = static_cast<double>(t.requests);
      found = {static_cast<double>(t.units) / requests, static_cast<double>(t.least) / requests};
    }
  return found;
}

template <int kStride>
void transpose_tile(const float* x, float* y) {
  struct Tile {
    float v[32 * kStride];
  };
  Tile& tile = block_shared<Tile>();
  tile.v[threadIdx.y * kStride + threadIdx.x] = x[threadIdx.y * 32 + threadIdx.x];
  __syncthreads();
  y[threadIdx.y * 32 + threadIdx.x] = tile.v[threadIdx.x * kStride + threadIdx.y];
}
TEST(Traffic, PaddingATileFreesItsBanks) {
  const DeviceArray<float> x(1024), y(1024);
  for (const bool padded : {false, true}) {
    const TrafficMeter meter;
    run_kernel(padded ? transpose_tile<33> : transpose_tile<32>, {dim3(1), dim3(32, 32)}, x.get(),
               y.get());
    const std::vector<LineTraffic> lines = meter.lines();
    EXPECT_EQ(only(lines, true, true), (PerRequest{1, 1}));
    EXPECT_EQ(only(lines, true, false), (PerRequest{padded ? 1.0 : 32.0, 1}));
    EXPECT_EQ(only(lines, false, false), (PerRequest{4, 4}));
    EXPECT_EQ(only(lines, false, true), (PerRequest{4, 4}));
  }
}

template <int kStep>
void read_apart(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x * kStep];
}
void copy_packs(const float* x, float* y) {
  store_pack<4>(y + threadIdx.x * 4, load_pack<4>(x + threadIdx.x * 4));
}
TEST(Traffic, SectorsOfDeviceMemory) {
  const DeviceArray<float> x(1024), y(1024);
  const auto run = [&](auto kernel) {
    const TrafficMeter meter;
    run_kernel(kernel, {dim3(1), dim3(32)}, x.get(), y.get());
    return only(meter.lines(), false, false);
  };
  EXPECT_EQ(run(read_apart<0>), (PerRequest{1, 1}));  // of one address
  EXPECT_EQ(run(read_apart<1>), (PerRequest{4, 4}));
  EXPECT_EQ(run(read_apart<2>), (PerRequest{8, 4}));
  EXPECT_EQ(run(read_apart<8>), (PerRequest{32, 4}));
  EXPECT_EQ(run(copy_packs), (PerRequest{16, 16}));
}

template <int kStride>
void load_matrices_of_rows(int*) {
  uint32_t v[4];
  pinion::kernels::cuda::load_matrices<false>(v,
                                              dynamic_shared<BFloat16>() + threadIdx.x * kStride);
}
TEST(Traffic, RowsOfMatricesInOneBankOrInAll) {
  const DeviceArray<int> none(1);
  const auto run = [&](void (*kernel)(int*)) {
    const TrafficMeter meter;
    run_kernel(kernel, {dim3(1), dim3(32), 8192}, none.get());
    return only(meter.lines(), true, false);
  };
  EXPECT_EQ(run(load_matrices_of_rows<64>), (PerRequest{32, 4}));
  EXPECT_EQ(run(load_matrices_of_rows<64 + 8>), (PerRequest{4, 4}));
}

}  // namespace
}  // namespace cudasim::testing
